/** What encodes windows: one session, or in Node workers that each have one and a thread of their own. */

import type { Graph } from "./bundle.js";
import { closedError, ScclipError, reasonOf, type ErrorCode } from "./errors.js";
import type { GraphSpec } from "./manifest.js";
import { Session, type OrtModule, type RuntimeOptions } from "./runtime.js";

/** Every worker holds the weights: together they may take so many bytes. */
const MAX_WEIGHT_BYTES = 256 << 20;

/** Windows of one size and the queries to compare them with. */
export interface Windows {
  /** RGB, count × height × width × 3. */
  readonly pixels: Uint8Array;
  readonly shape: readonly [count: number, height: number, width: number];
  /** Queries × width. */
  readonly text: Float32Array;
  readonly queries: number;
  readonly output: "features" | "logits";
}

export interface Encoder {
  /** How many calls gain from running at the same time. */
  readonly parts: number;
  /** Rows of the output, window by window. */
  encode(windows: Windows): Promise<Float32Array>;
  /** Give the memory back; what is being encoded, and what comes later, is refused. */
  release(): Promise<void>;
}

/** A worker that runs `answerEncoding`. */
export interface EncoderWorker {
  post(message: Order, transfer: ArrayBuffer[]): void;
  /** Once: what to call with each reply, and when the worker fails. */
  listen(heard: (reply: Reply) => void, failed: (reason: unknown) => void): void;
  end(): void;
}

/** Workers to be started. */
export interface Workers {
  readonly count: number;
  start(): EncoderWorker;
}

type Runtime = Pick<RuntimeOptions, "provider" | "threads">;
export type Order =
  | { readonly kind: "load"; readonly graph: Graph; readonly spec: GraphSpec; readonly runtime: Runtime }
  | { readonly kind: "encode"; readonly windows: Windows };
export type Reply =
  | { readonly kind: "done"; readonly rows: Float32Array }
  | { readonly kind: "failed"; readonly code: ErrorCode; readonly message: string; readonly field: string };

/** One session, whose operators share the threads it has. */
export class SessionEncoder implements Encoder {
  readonly parts = 1;

  constructor(private readonly session: Session) {}

  async encode({ pixels, shape, text, queries, output }: Windows): Promise<Float32Array> {
    return this.session.run({
      windows: this.session.tensor("uint8", pixels, [...shape, 3]),
      text: this.session.tensor("float32", text, [queries, text.length / queries]),
    }, output);
  }

  async release(): Promise<void> {
    await this.session.release();
  }
}

/** Workers that take calls as they are free: no operator waits for another thread. */
class WorkerEncoder implements Encoder {
  private idle: Remote[];
  private readonly waiting: ((free: Remote) => void)[] = [];

  constructor(private readonly all: readonly Remote[]) {
    this.idle = [...all];
  }

  get parts(): number {
    return this.all.length;
  }

  async encode(windows: Windows): Promise<Float32Array> {
    const free = this.take() ?? (await new Promise<Remote>((settle) => this.waiting.push(settle)));
    try {
      return await free.ask({ kind: "encode", windows }, [windows.pixels.buffer as ArrayBuffer]);
    } finally {
      this.giveBack(free);
    }
  }

  /** A worker that is free, if there is one; where all have failed, one of those: it says why. */
  private take(): Remote | undefined {
    this.idle = this.idle.filter((remote) => remote.works);
    return this.idle.pop() ?? (this.all.some((remote) => remote.works) ? undefined : this.all[0]);
  }

  /** One that has failed gets nothing more to do while others work. */
  private giveBack(remote: Remote): void {
    if (!remote.works && this.all.some((other) => other.works)) return;
    const next = this.waiting.shift();
    if (next) next(remote);
    else this.idle.push(remote);
  }

  async release(): Promise<void> {
    for (const remote of this.all) remote.end();
  }
}

/** One worker, one question at a time. */
class Remote {
  private settle: ((rows: Float32Array) => void) | null = null;
  private refuse: ((error: Error) => void) | null = null;
  private broken: ScclipError | null = null;

  constructor(private readonly worker: EncoderWorker) {
    worker.listen(
      (reply) => {
        if (reply.kind === "done") this.settle?.(reply.rows);
        else this.refuse?.(new ScclipError(reply.code, reply.message, reply.field));
      },
      (reason) => this.fail(new ScclipError("BackendError", `a worker that encodes has failed: ${reasonOf(reason)}`, "workers")),
    );
  }

  get works(): boolean {
    return this.broken === null;
  }

  /** Refuse the question that is open, and all later ones. */
  private fail(error: ScclipError): void {
    this.broken ??= error;
    this.refuse?.(this.broken);
  }

  ask(order: Order, transfer: ArrayBuffer[] = []): Promise<Float32Array> {
    return new Promise((settle, refuse) => {
      if (this.broken) return refuse(this.broken);
      [this.settle, this.refuse] = [settle, refuse];
      this.worker.post(order, transfer);
    });
  }

  end(): void {
    this.fail(closedError());
    this.worker.end();
  }
}

/**
 * Load an encoder, in workers where they are offered and the weights are small.
 *
 * @throws ScclipError As `Session.load`; BackendError: a worker can't be started.
 */
export async function loadEncoder(
  graph: Graph, spec: GraphSpec, options: RuntimeOptions, workers: Workers | undefined,
): Promise<Encoder> {
  const bytes = [graph.model, ...graph.weights.values()].reduce((sum, part) => sum + part.length, 0);
  const count = Math.min(workers?.count ?? 1, Math.floor(MAX_WEIGHT_BYTES / bytes));
  if (!workers || count < 2 || options.provider === "webgpu") return new SessionEncoder(await Session.load(graph, spec, options));
  const remotes = Array.from({ length: count }, () => new Remote(workers.start()));
  // A path is enough for a library that opens files itself.
  const sent = graph.path === undefined ? graph : { ...graph, model: new Uint8Array(), weights: new Map<string, Uint8Array>() };
  const { inputs, outputs, file } = spec;
  try {
    const runtime = { provider: options.provider, threads: 1 };
    await Promise.all(remotes.map((remote) => remote.ask({ kind: "load", graph: sent, spec: { inputs, outputs, file }, runtime })));
  } catch (error) {
    for (const remote of remotes) remote.end();
    throw error;
  }
  return new WorkerEncoder(remotes);
}

/**
 * What a worker does: load the graph that it is sent, then encode windows.
 *
 * @param load Imports ONNX Runtime.
 * @param reply Posts to the one that started the worker.
 * @returns To be called with each message.
 */
export function answerEncoding(
  load: () => Promise<OrtModule>, reply: (message: Reply, transfer: ArrayBuffer[]) => void,
): (order: Order) => Promise<void> {
  let encoder: Encoder | null = null;
  return async (order) => {
    try {
      if (order.kind === "load") {
        encoder = new SessionEncoder(await Session.load(order.graph, order.spec, { ort: await load(), ...order.runtime }));
        reply({ kind: "done", rows: new Float32Array() }, []);
      } else {
        if (!encoder) throw new ScclipError("BackendError", "windows came before the graph that encodes them", "workers");
        const rows = await encoder.encode(order.windows);
        reply({ kind: "done", rows }, [rows.buffer as ArrayBuffer]);
      }
    } catch (error) {
      const { code, message, field } = error instanceof ScclipError ? error : new ScclipError("BackendError", reasonOf(error));
      reply({ kind: "failed", code, message, field: field ?? "workers" }, []);
    }
  };
}
