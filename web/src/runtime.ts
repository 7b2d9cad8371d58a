/** ONNX Runtime behind one small interface: onnxruntime-web in browsers, onnxruntime-node in Node. */

import type { InferenceSession, Tensor, TensorConstructor } from "onnxruntime-common";
import type { Graph } from "./bundle.js";
import { closedError, ScclipError, reasonOf } from "./errors.js";
import type { GraphSpec } from "./manifest.js";

/** What this package needs of onnxruntime-web or onnxruntime-node: the imported module itself. */
export interface OrtModule {
  readonly InferenceSession: { create(model: Uint8Array | string, options: object): Promise<InferenceSession> };
  readonly Tensor: TensorConstructor;
}

export interface RuntimeOptions {
  /** The imported module. */
  readonly ort: OrtModule;
  /** Where graphs run: `wasm` or `webgpu` in browsers, `cpu` in Node. */
  readonly provider: "wasm" | "webgpu" | "cpu";
  /** Threads in Node; in browsers `ort.env.wasm.numThreads` says. */
  readonly threads?: number;
}

/** A loaded graph. */
export class Session {
  private readonly runs = new Set<Promise<unknown>>();
  private released = false;

  private constructor(private readonly session: InferenceSession, private readonly graph: GraphSpec, private readonly options: RuntimeOptions) {}

  /**
   * Load a graph with its weights.
   *
   * @throws ScclipError BackendError: ONNX Runtime refuses it; BundleError: its tensors aren't those of bundle.json.
   */
  static async load(graph: Graph, spec: GraphSpec, options: RuntimeOptions): Promise<Session> {
    const { ort, provider, threads } = options;
    const externalData = [...graph.weights].map(([path, data]) => ({ path, data }));
    const common = { executionProviders: [provider], graphOptimizationLevel: "all", logSeverityLevel: 3 };
    let session: InferenceSession;
    try {
      session =
        graph.path === undefined
          ? await ort.InferenceSession.create(graph.model, { ...common, externalData })
          : await ort.InferenceSession.create(graph.path, { ...common, ...(threads ? { intraOpNumThreads: threads } : {}) });
    } catch (error) {
      throw new ScclipError("BackendError", `ONNX Runtime (${provider}) can't load ${graph.file}: ${reasonOf(error)}`, graph.file);
    }
    for (const [wanted, found] of [[spec.inputs, session.inputNames], [spec.outputs, session.outputNames]] as const) {
      const missing = wanted.find((tensor) => !found.includes(tensor.name));
      if (missing) {
        throw new ScclipError(
          "BundleError", `${graph.file} has ${found.join(", ")}; bundle.json names ${missing.name}. Export the bundle again`, graph.file);
      }
    }
    return new Session(session, spec, options);
  }

  /** Run it for one output of float32. */
  async run(inputs: Readonly<Record<string, Tensor>>, output: string): Promise<Float32Array> {
    const [values] = await this.runFor(inputs, [output]);
    return values;
  }

  /**
   * Run it for some outputs of float32.
   *
   * @throws ScclipError BackendError: ONNX Runtime fails, or the session is released before the run ends.
   */
  async runFor(inputs: Readonly<Record<string, Tensor>>, names: readonly string[]): Promise<Float32Array[]> {
    if (this.released) throw closedError();
    const run = this.session.run(inputs, names);
    this.runs.add(run);
    let outputs: Awaited<typeof run>;
    try {
      outputs = await run;
    } catch (error) {
      throw new ScclipError("BackendError", `${this.graph.file} failed to run: ${reasonOf(error)}`, this.graph.file);
    } finally {
      this.runs.delete(run);
    }
    if (this.released) throw closedError();
    return names.map((name) => outputs[name].data as Float32Array);
  }

  tensor(type: "uint8", data: Uint8Array, dims: readonly number[]): Tensor;
  tensor(type: "int64", data: BigInt64Array, dims: readonly number[]): Tensor;
  tensor(type: "float32", data: Float32Array, dims: readonly number[]): Tensor;
  tensor(type: "uint8" | "int64" | "float32", data: Uint8Array | BigInt64Array | Float32Array, dims: readonly number[]): Tensor {
    return new this.options.ort.Tensor(type as "uint8", data as Uint8Array, dims);
  }

  /** Give the memory back, once nothing runs in it. */
  async release(): Promise<void> {
    this.released = true;
    await Promise.allSettled(this.runs);
    await this.session.release();
  }
}
