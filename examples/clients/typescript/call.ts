// What both programs share: calls that are repeated where that can help, and what is printed.
import { type ServiceError, status } from "@grpc/grpc-js";
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

/**
 * Failures that another try may not meet: the server is full, away or stopping, or a proxy dropped
 * the call. Every call is a pure function of its request, so that repeating it does no harm.
 */
const PASSING = [status.RESOURCE_EXHAUSTED, status.UNAVAILABLE, status.CANCELLED];

/**
 * Sends until there is an answer. One deadline holds for all tries; the server knows it, and skips
 * what nobody waits for any more. Throws what the last try failed with.
 *
 * @param seconds until the deadline.
 * @param retryDelay gives the seconds of the RetryInfo in a `google.rpc.Status`, if it has one.
 * @param send begins a try.
 */
export async function call<T>(
  seconds: number,
  retryDelay: (details: Buffer) => number | undefined,
  send: (options: { deadline: Date }) => Promise<T>,
): Promise<T> {
  const deadline = new Date(Date.now() + 1000 * seconds);
  for (let tries = 0; ; tries++) {
    try {
      return await send({ deadline });
    } catch (failure) {
      const { code, metadata } = failure as ServiceError;
      // Not before the server says, or ever later where it does not; not all callers at once.
      const [details] = metadata.get("grpc-status-details-bin");
      let delay = details ? retryDelay(details as Buffer) : undefined;
      delay = (delay ?? Math.min(1, 0.02 * 2 ** tries)) * (1 + Math.random() / 4);
      if (!PASSING.includes(code) || Date.now() + 1000 * delay >= deadline.getTime()) throw failure;
      await setTimeout(1000 * delay);
    }
  }
}

/** Prints the loss, and whether all answers are those of a file of float32 values. */
export function report(tensors: Uint8Array[], expected?: string): void {
  console.log("loss", Buffer.from(tensors[2]).readFloatLE());
  if (expected === undefined) return;
  const numbers = Buffer.concat(tensors);
  if (!numbers.equals(readFileSync(expected))) throw Error("other numbers than expected");
  console.log(numbers.length / 4, "numbers as expected");
}
