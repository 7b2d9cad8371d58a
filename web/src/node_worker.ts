/** A worker of `openSegmenter`. */

import { parentPort } from "node:worker_threads";
import { answerEncoding } from "./encoder.js";

const answer = answerEncoding(() => import("onnxruntime-node"), (message, transfer) => parentPort?.postMessage(message, transfer));
parentPort?.on("message", (order) => void answer(order));
