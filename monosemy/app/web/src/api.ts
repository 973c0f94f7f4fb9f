/**
 * The HTTP API of `monosemy browse`: its addresses. The types of what they take and answer are in types.ts, which is made
 * from the Python side (monosemy/app/schema).
 *
 * Addresses: the page is served at `/` and at every other address without `/api/` or `/static/` in front (so paths may
 * be permalinks), its assets at `/static/…`, the run's report at `/report`.
 * Errors: every failed call answers `{"error": one line for the user}` with status 400 (bad input), 403 (foreign Host or
 * Origin, no token), 404 (no such SAE, latent, features), 409 (a generation is running), 413 (too large) or 503 (model).
 * Missing numbers are `null` in JSON and NaN in binary columns.
 */
import type * as wire from "./types";
import type {
  Comparison, DifferenceBody, EvidenceBody, FeatureInfo, GraphContexts, GraphEdits, GraphIntervention, GraphList, GraphPage, Highlights, LabelSearch, LatentList, LatentPage, MeaningSearch, ModelStatus, NoteChange, Notes, Recipes, RunInfo, SteerEvent, SteerExamples,
  SteeringRecipe, SweepEvent, TextBody, TextDifference, TextResult, TokenSearch,
} from "./types";

export type * from "./types";

// Names for parts of the types, and what the pages always fill in.
export type ModelState = ModelStatus["state"];
export type ColumnSource = wire.SaeEntry["column_source"];
export type TokenRun = Pick<wire.Example, "tokens" | "special">;
export type ExampleGroup = wire.Example["group"];
export type Edit = Required<wire.Edit>;
export type Operation = Edit["operation"];
export type EditUnit = Edit["unit"];
export type Positions = wire.Positions & Required<Pick<wire.Positions, "where">>;
export type SteerColumn = wire.TokenEvent["column"];
export type SteerRequest = wire.SaeBody &
  Omit<wire.SteeringRequest, "edits" | "positions" | "columns"> & { edits: Edit[]; positions?: Positions; columns?: SteerColumn[] };
export type SweepRequest = SteerRequest & wire.SweepValues;

export interface ListQuery {
  /** A column's name, or "latent" (default). Missing values come last in either order. */
  sort?: string;
  order?: "asc" | "desc";
  /** Inclusive bounds per column: sent as min_NAME / max_NAME. A missing value passes no bound. */
  min?: Record<string, number>;
  max?: Record<string, number>;
  /** Words looked up in the labels (prefix match). */
  q?: string;
  offset?: number;
  limit?: number;
}

export interface CompareQuery {
  /** "site/name" */
  a: string;
  b: string;
  by?: "cosine" | "correlation";
  threshold?: number;
  view?: "matched" | "only_a" | "only_b";
  offset?: number;
  limit?: number;
}

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

async function fail(response: Response): Promise<never> {
  let message = `${response.status} ${response.statusText}`;
  try {
    const body = (await response.json()) as { error?: string };
    if (body.error) message = body.error;
  } catch {
    // not JSON: the status line has to do
  }
  throw new ApiError(message, response.status);
}

async function get<T>(address: string, signal?: AbortSignal): Promise<T> {
  const response = await fetch(address, { signal });
  return response.ok ? ((await response.json()) as T) : fail(response);
}

async function send<T>(method: "POST" | "PUT", address: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const response = await fetch(address, {
    method,
    signal,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return response.ok ? ((await response.json()) as T) : fail(response);
}

function query(values: Record<string, string | number | undefined>): string {
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) if (value !== undefined && value !== "") words.set(key, `${value}`);
  const text = words.toString();
  return text ? `?${text}` : "";
}

const feature = (site: string, name: string) => `/api/f/${encodeURIComponent(site)}/${encodeURIComponent(name)}`;

const graph = (name: string) => `/api/graph/${encodeURIComponent(name)}`;

export const api = {
  run: (signal?: AbortSignal) => get<RunInfo>("/api/run", signal),
  info: (site: string, name: string, signal?: AbortSignal) => get<FeatureInfo>(`${feature(site, name)}/info`, signal),

  /** Whole columns, float32 [d_sae] each, in the order asked; works without features too (evaluation statistics). */
  async columns(site: string, name: string, names: string[], signal?: AbortSignal): Promise<Record<string, Float32Array>> {
    const response = await fetch(`${feature(site, name)}/columns${query({ names: names.join(",") })}`, { signal });
    if (!response.ok) return fail(response);
    const buffer = await response.arrayBuffer();
    const each = buffer.byteLength / 4 / names.length;
    return Object.fromEntries(names.map((n, i) => [n, new Float32Array(buffer, i * each * 4, each)]));
  },

  /** Works without features too (without labels). */
  latents(site: string, name: string, list: ListQuery, signal?: AbortSignal): Promise<LatentList> {
    const { min = {}, max = {}, ...rest } = list;
    const bounds = Object.fromEntries([
      ...Object.entries(min).map(([key, value]) => [`min_${key}`, value] as const),
      ...Object.entries(max).map(([key, value]) => [`max_${key}`, value] as const),
    ]);
    return get<LatentList>(`${feature(site, name)}/latents${query({ ...rest, ...bounds })}`, signal);
  },

  /** `window`: tokens on each side of the peak (default 24); 0 sends whole contexts. */
  latent: (site: string, name: string, latent: number, window?: number, signal?: AbortSignal) =>
    get<LatentPage>(`${feature(site, name)}/latent/${latent}${query({ window })}`, signal),
  highlights: (site: string, name: string, signal?: AbortSignal) => get<Highlights>(`${feature(site, name)}/highlights`, signal),
  /** Loads the model at first need. */
  steerExamples: (site: string, name: string, signal?: AbortSignal) =>
    send<SteerExamples>("POST", `${feature(site, name)}/steer-examples`, {}, signal),
  search: (site: string, name: string, q: string, limit?: number, signal?: AbortSignal) =>
    get<LabelSearch>(`${feature(site, name)}/search${query({ q, limit })}`, signal),
  /** Loads the model at first need. */
  meaning: (site: string, name: string, q: string, signal?: AbortSignal) =>
    send<MeaningSearch>("POST", `${feature(site, name)}/meaning`, { q }, signal),
  token: (site: string, name: string, text: string, limit?: number, signal?: AbortSignal) =>
    get<TokenSearch>(`${feature(site, name)}/token${query({ text, limit })}`, signal),
  /** The address of a row's thumbnail; `context` is that of an example. */
  picture: (site: string, name: string, context: number) => `${feature(site, name)}/picture/${context}`,
  /** Loads the model at first need (seconds; poll `model` for its state). Works without features too. */
  text: (site: string, name: string, body: TextBody, signal?: AbortSignal) =>
    send<TextResult>("POST", `${feature(site, name)}/text`, body, signal),

  textDifference: (site: string, name: string, body: DifferenceBody, signal?: AbortSignal) =>
    send<TextDifference>("POST", `${feature(site, name)}/text-difference`, body, signal),
  /** The file itself. */
  async evidence(site: string, name: string, body: EvidenceBody): Promise<Blob> {
    const headers = { "Content-Type": "application/json" };
    const response = await fetch(`${feature(site, name)}/evidence`, { method: "POST", headers, body: JSON.stringify(body) });
    return response.ok ? response.blob() : fail(response);
  },

  compare: (values: CompareQuery, signal?: AbortSignal) =>
    get<Comparison>(`/api/compare${query({ ...values })}`, signal),

  graphs: (signal?: AbortSignal) => get<GraphList>("/api/graphs", signal),
  graph: (name: string, signal?: AbortSignal) => get<GraphPage>(graph(name), signal),
  graphContexts: (name: string, node: number, signal?: AbortSignal) =>
    get<GraphContexts>(`${graph(name)}/contexts/${node}`, signal),
  /** Runs the model with edits of a graph's latents; loads it at first need. */
  editGraph: (name: string, body: GraphEdits, signal?: AbortSignal) =>
    send<GraphIntervention>("POST", `${graph(name)}/edit`, body, signal),

  model: (signal?: AbortSignal) => get<ModelStatus>("/api/model", signal),
  loadModel: () => send<ModelStatus>("POST", "/api/model/load", {}),

  notes: async (signal?: AbortSignal) => (await get<Notes>("/api/notes", signal)).notes,
  /** Changes one latent's bookmark, note or both; what is left out stays. Answers all notes. */
  putNote: async (change: NoteChange) => (await send<Notes>("PUT", "/api/notes", change)).notes,

  recipes: (signal?: AbortSignal) => get<Recipes>("/api/recipes", signal),
  /** Keeps a recipe in the run, in the place of one of the same name. */
  keepRecipe: (recipe: SteeringRecipe) => send<Recipes>("PUT", "/api/recipes", recipe),
  forgetRecipe: (name: string) => send<Recipes>("POST", "/api/recipes/forget", { name }),

  /** Streams; abort the signal to cancel (the server stops at the next token). One generation at a time: else 409. */
  steer: (request: SteerRequest, on: (event: SteerEvent) => void, signal?: AbortSignal) =>
    stream<SteerEvent>("/api/steer", request, on, signal),
  sweep: (request: SweepRequest, on: (event: SweepEvent) => void, signal?: AbortSignal) =>
    stream<SweepEvent>("/api/sweep", request, on, signal),
};

async function stream<E>(address: string, body: unknown, on: (event: E) => void, signal?: AbortSignal): Promise<void> {
  const response = await fetch(address, {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok || !response.body) return fail(response);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const lines = rest.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line) on(JSON.parse(line) as E);
    if (done) return;
  }
}
