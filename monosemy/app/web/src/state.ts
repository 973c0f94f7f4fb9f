/** What every page shares: the run, the SAE at hand, the model's state, notes; and loading with errors. */
import { createContext } from "preact";
import { useContext, useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Inputs } from "preact/hooks";
import type { ModelStatus, Note, RunInfo, SaeEntry } from "./api";

export interface Shared {
  run: RunInfo;
  /** The SAE of the address, else the one that was built first. */
  sae: SaeEntry;
  model: ModelStatus;
  /** Looks at the model's state again, and keeps looking while it loads. */
  watchModel: () => void;
  notes: Note[];
  setNotes: (notes: Note[]) => void;
  /** Whether the notes were read once, and why the last reading failed. */
  notesState: { loaded: boolean; error: string | null };
  readNotes: () => void;
}

export const SharedContext = createContext<Shared | null>(null);

export function useShared(): Shared {
  const shared = useContext(SharedContext);
  if (!shared) throw new Error("used outside the shell");
  return shared;
}

export interface Loaded<T> {
  value: T | null;
  error: string | null;
  busy: boolean;
}

/** Loads at first and whenever `inputs` change; an older answer stays in view until the new one is there, `busy` from
 * the very render that has the new inputs: a heading may already name them. */
export function useLoad<T>(load: ((signal: AbortSignal) => Promise<T>) | null, inputs: Inputs): Loaded<T> {
  const request = useMemo(() => ({}), inputs);
  const [state, setState] = useState<{ value: T | null; error: string | null; of: object | null }>({ value: null, error: null, of: null });
  useEffect(() => {
    if (!load) {
      setState({ value: null, error: null, of: request });
      return;
    }
    const abort = new AbortController();
    setState((old) => ({ ...old, error: null }));
    load(abort.signal).then(
      (value) => abort.signal.aborted || setState({ value, error: null, of: request }),
      (error: unknown) => abort.signal.aborted || setState({ value: null, error: sentence(error), of: request }),
    );
    return () => abort.abort();
  }, [request]);
  return { value: state.value, error: state.error, busy: load !== null && state.of !== request };
}

export function sentence(error: unknown): string {
  if (error instanceof TypeError) return "The server does not answer. Is `monosemy browse` still running?";
  return error instanceof Error ? error.message : String(error);
}

/** A value that follows `value` once it has been still for `ms`. */
export function useSettled<T>(value: T, ms: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

/** The width of an element in CSS pixels, 0 before it is laid out. */
export function useWidth<E extends HTMLElement>(): [{ current: E | null }, number] {
  const ref = useRef<E>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const element = ref.current;
    if (!element) return;
    const observer = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.observe(element);
    setWidth(element.clientWidth);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

/** Counts the changes of the colour scheme, to draw again after each. */
export function useScheme(): number {
  const [scheme, setScheme] = useState(0);
  useEffect(() => {
    const redraw = () => setScheme((n) => n + 1);
    const watch = new MutationObserver(redraw);
    watch.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const media = matchMedia("(prefers-color-scheme: dark)");
    media.addEventListener("change", redraw);
    return () => {
      watch.disconnect();
      media.removeEventListener("change", redraw);
    };
  }, []);
  return scheme;
}

export const sameSae = (a: { site: string; name: string }, b: { site: string; name: string }): boolean =>
  a.site === b.site && a.name === b.name;

/** The SAE that a page opens with: the first with features, else the first; controls come last at every site. */
export function firstSae(saes: SaeEntry[]): SaeEntry | undefined {
  const trained = saes.filter((sae) => !sae.control && !sae.stopped);
  return trained.find((sae) => sae.has_features) ?? saes.find((sae) => sae.has_features) ?? trained[0] ?? saes[0];
}

/** A choice kept by this browser, such as the length of contexts. */
export function remembered(key: string): string | null {
  try {
    return localStorage.getItem(`monosemy.${key}`);
  } catch {
    return null;
  }
}
export function remember(key: string, value: string): void {
  try {
    localStorage.setItem(`monosemy.${key}`, value);
  } catch {
    // Storage may be blocked; the choice then lasts as long as the page.
  }
}
