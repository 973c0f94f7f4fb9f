import { ApiError } from "../api";

const TRIES = 12;
const PAUSE_MS = 700;

/**
 * Calls again while the server still ends an earlier answer (409): one that was stopped goes on to its next token.
 * Someone else's answer outlasts the tries, and its error is thrown as it is.
 */
export async function patient(call: () => Promise<void>, signal: AbortSignal): Promise<void> {
  for (let left = TRIES; ; left--) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 409) || left === 0 || signal.aborted) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
