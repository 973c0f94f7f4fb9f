/**
 * The HTTP API of `monosemy browse`, typed; the Python side is monosemy/app/.
 *
 * Addresses: the page is served at `/` and at every other address without `/api/` or `/static/` in front (so paths may
 * be permalinks), its assets at `/static/…`, the run's report at `/report`.
 * Errors: every failed call answers `{"error": one line for the user}` with status 400 (bad input), 403 (foreign Host or
 * Origin, no token), 404 (no such SAE, latent, features), 409 (a generation is running), 413 (too large) or 503 (model).
 * Missing numbers are `null` in JSON and NaN in binary columns.
 */

// ---------------------------------------------------------------- run

/** One evaluated SAE or control, as in evaluation.json; every interval is a 95% bootstrap interval over documents. */
export interface EvaluationRecord {
  name: string;
  architecture: string;
  site: string;
  target_l0: number | null;
  seed: number | null;
  control: boolean;
  n_tokens: number;
  n_documents: number;
  d_sae: number;
  l0: number | null;
  l0_interval: [number, number] | null;
  fvu: number | null;
  fvu_interval: [number, number] | null;
  dead_fraction: number | null;
  over_10pct_fraction: number | null;
  delta_loss: number | null;
  delta_loss_interval: [number, number] | null;
  loss_recovered: number | null;
  loss_recovered_interval: [number, number] | null;
  kl: number | null;
  kl_interval: [number, number] | null;
  [more: string]: unknown;
}

/** Where a list's and a scatter's numbers come from: a built feature database, or only the evaluation's statistics. */
export type ColumnSource = "features" | "evaluation" | "none";

export interface SaeEntry {
  site: string;
  name: string;
  /** What it goes by: of a control "frozen_random", whatever it is trained as. */
  architecture: string;
  control: boolean;
  /** Why its training stopped early; empty for one trained to its end. */
  stopped: string;
  /** The command that builds the features of this SAE. */
  build_command: string;
  d_sae: number;
  d_in: number;
  target_l0: number | null;
  seed: number | null;
  /** The SAE whose features were built: it has latent pages, search and neighbours. */
  has_features: boolean;
  /** Why features that are there cannot be read (damaged, older format); empty when all is well. */
  problem: string;
  /** Tokens behind the columns; null without columns. */
  n_tokens: number | null;
  column_source: ColumnSource;
  /** Names accepted by `columns`, `latents?sort=` and the filters. */
  columns: string[];
}

export type ModelState = "absent" | "loading" | "ready" | "failed";
export interface ModelStatus {
  state: ModelState;
  /** Name of the run's language model. */
  name: string;
  /** What is happening or why it failed, for the user; empty when there is nothing to say. */
  message: string;
  /** Seconds since loading began; null unless loading. */
  seconds: number | null;
  /** Whether the model's tokenizer has a chat template. Null until loaded. */
  chat: boolean | null;
}

/** How an architecture is drawn; from report/theme.py and the registry. */
export interface SeriesStyle {
  label: string;
  /** Colours on a light and on a dark page. */
  light: string;
  dark: string;
  /** By matplotlib's letter. */
  marker: string;
  /** Lengths of dashes and gaps in line widths; empty: a solid line. */
  dashes: number[];
}

export interface RunInfo {
  /** The folder's own name (no path). */
  name: string;
  version: string;
  /** Site by site; controls last. */
  saes: SaeEntry[];
  evaluation: EvaluationRecord[];
  /** By architecture (or control), in the order of figures and lists. */
  styles: Record<string, SeriesStyle>;
  clean_loss: number | null;
  model: ModelStatus;
  /** The command that builds features of the run's default SAE, for the hint where there are none at all. */
  build_command: string;
  has_report: boolean;
  limits: Limits;
}

/** Caps that the server enforces; use them for `maxlength` and slider bounds. */
export interface Limits {
  text_characters: number;
  note_characters: number;
  new_tokens: number;
  edits: number;
  sweep_values: number;
  page_rows: number;
}

// ---------------------------------------------------------------- lists and columns

/** `GET …/info`: the database's own info (see FeatureDatabase.info); all extra keys are for display. */
export interface FeatureInfo {
  site: string;
  name: string;
  architecture: string;
  d_sae: number;
  n_tokens: number;
  n_contexts: number;
  context_length: number;
  window: number;
  l0: number | null;
  model: { name: string; fingerprint: string };
  median_norm?: number;
  created: string;
  [more: string]: unknown;
}

/** Known columns; all are optional per SAE (see SaeEntry.columns). */
export type ColumnName =
  | "n_fired" | "firing_rate" | "mean" | "max" | "first_share" | "last_share" | "mean_position" | "token_entropy"
  | "top_cosine" | "top_logit" | "label_auroc" | "label_auroc_low" | "label_auroc_high" | "hidden_auroc"
  | "top_token_auroc" | "label_n";

export interface LatentRow {
  latent: number;
  /** Empty where labels do not exist. */
  label: string;
  /** One value per name in LatentList.columns. */
  values: (number | null)[];
}
export interface LatentList {
  /** Latents that pass the filters, over the whole dictionary. */
  total: number;
  offset: number;
  columns: string[];
  rows: LatentRow[];
}
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

// ---------------------------------------------------------------- latent page

/**
 * Text of a run of tokens. `tokens[i]` is the exact text of token i, spaces and newlines included (make them visible as
 * you like). A character cut over several tokens has its whole text on the first of them and "" on the others: show a
 * token with "" as part of the one before. `special` lists the positions of special tokens (they do have text).
 */
export interface TokenRun {
  tokens: string[];
  special: number[];
}

export type ExampleGroup = "top" | "q0" | "q1" | "q2" | "q3" | "q4" | "near_miss" | "random";
export interface Example extends TokenRun {
  group: ExampleGroup;
  /** Number of the stored context: the same context under two latents has the same number. */
  context: number;
  /** Position of tokens[0] within the context, and the context's whole length: more can be asked with `window=0`. */
  start: number;
  length: number;
  /** Index into `tokens` of the peak. */
  peak: number;
  /** The activation at the peak (0 for near misses and random contexts). */
  value: number;
  /** Positive activations: [index into tokens, value]. */
  activations: [number, number][];
  /** Part of the text it comes from ("english", "code", …). */
  source: string;
  /** The document: a title, a file. */
  origin: string;
}

export interface Neighbour {
  latent: number;
  label: string;
  /** Decoder cosine, or correlation of firing. */
  value: number;
}
export interface OutputToken {
  id: number;
  text: string;
  /** Change of the logit by one unit of activation, centred over the vocabulary. */
  value: number;
}

/** What a chat model wrote of a latent (features/explain/explanations.py). */
export interface Explanation {
  text: string;
  /** Name of the chat model; empty where it was not recorded. */
  model: string;
  /** Contexts that it was shown; null where that was not recorded. */
  n_passages: number | null;
  /** By test: {measure: value, measure_low, measure_high: ends of its 95% interval, n_positive, n_negative, …}. */
  scores: Record<string, Record<string, number | null>>;
  /** By test that was not made: why. */
  skipped: Record<string, string>;
}

/** The label and what backs it (features/labels/make.py, features/explain/command.py). */
export interface Label {
  text: string;
  hints?: string[];
  /** Tokens over-represented at the peaks and just before them; `value`: log-odds in standard deviations. */
  peak_tokens?: OutputToken[];
  before_tokens?: OutputToken[];
  /** A chat model's explanation where `monosemy explain` was run. */
  explanation?: Explanation | null;
  /** Whether the explanation is the heading, here and in lists: it tells the latent's firing better than `text`. */
  explanation_leads?: boolean;
  /** label_auroc, hidden_auroc, top_token_auroc, … with _low and _high where known, label_n: the windows behind them. */
  scores?: Record<string, number | null>;
  [more: string]: unknown;
}

export interface LatentPage {
  latent: number;
  d_sae: number;
  label: Label;
  /** Every column's value for this latent. */
  stats: Record<string, number | null>;
  /**
   * What steering's unit `max` multiplies: the largest activation on the evaluation's validation text; of the features'
   * text where it is silent there or nothing was evaluated. Null where it fired on neither.
   */
  steering_max: { value: number; text: "validation" | "features" } | null;
  /** Counts of positive activations between edges[i] and edges[i+1]. */
  histogram: { edges: number[]; counts: number[] };
  quantiles: { levels: number[]; values: number[] };
  /** Firing counts by position in the context (bucket i of equal width). */
  positions: number[];
  raised: OutputToken[];
  lowered: OutputToken[];
  /** Why the two are empty: the site has no direct path to the output. Null where it has one. */
  no_output_tokens: string | null;
  neighbours: { decoder: Neighbour[]; coactivation: Neighbour[] };
  examples: Example[];
}

// ---------------------------------------------------------------- search

export interface SearchHit {
  latent: number;
  label: string;
  /** What the order comes from: full-text rank, or the token's score for this latent. Higher is better. */
  score: number;
  firing_rate: number | null;
  label_auroc: number | null;
}
export interface LabelSearch {
  hits: SearchHit[];
}
export interface TokenSearch {
  /** Vocabulary tokens whose text matches, best first (exact text before prefix). */
  tokens: { id: number; text: string }[];
  /** Latents that peak on them most. */
  hits: (SearchHit & { token: number })[];
}

export interface FiringLatent {
  latent: number;
  value: number;
  label: string;
}
/** `POST …/text`: the SAE's code of the user's own text. */
export interface TextResult extends TokenRun {
  /** Per token, its strongest latents first (at most `top`). */
  top: FiringLatent[][];
  /** Latents by their largest value over the text, with the token where it is reached and how many tokens fire. */
  summary: (FiringLatent & { peak: number; n_tokens: number })[];
  /** Activation of `latent` at each token; null unless asked. */
  trace: number[] | null;
  /** Active latents per token. */
  l0: number[];
  /** Tokens left out because the text is longer than the model's context. */
  n_dropped: number;
}

// ---------------------------------------------------------------- compare

export interface ComparedPair {
  a: number;
  b: number;
  label_a: string;
  label_b: string;
  /** Null where the two SAEs read spaces of different width. */
  cosine: number | null;
  /** Correlation of activations over the same tokens; null where it was not measured. */
  correlation: number | null;
  firing_rate_a: number | null;
  firing_rate_b: number | null;
  /** Each is the other's best match. */
  mutual: boolean;
}
/** `GET /api/compare`: each latent of `a` beside its best match in `b`, and what has no match. */
export interface Comparison {
  a: SaeEntry;
  b: SaeEntry;
  /** What the match was made by. */
  by: "cosine" | "correlation";
  available: { cosine: boolean; correlation: boolean };
  /** Why a measure is not available, for the user; empty when both are. */
  notes: string[];
  /** A latent is matched when its best value is at least this. */
  threshold: number;
  n_matched_a: number;
  n_matched_b: number;
  n_mutual: number;
  /** Best value per latent, as counts between edges. */
  distribution: { edges: number[]; a: number[]; b: number[] };
  /** Rows of the view asked for. */
  view: "matched" | "only_a" | "only_b";
  total: number;
  offset: number;
  rows: ComparedPair[];
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

// ---------------------------------------------------------------- steering

/** Requests and events are those of monosemy/steering/request.py; omitted fields take its defaults. */
export type Operation = "add" | "set" | "scale" | "cap" | "ablate" | "project";
/** Units of `value` for add, set and cap; scale and project take a plain factor, ablate takes none. */
export type EditUnit = "raw" | "max" | "norm";
export interface Edit {
  latent: number;
  operation: Operation;
  value: number;
  unit: EditUnit;
}
/** Tokens that are edited; a range counts from the prompt's first token, `stop` null has no end. */
export interface Positions {
  where: "all" | "prompt" | "generated" | "range";
  start?: number;
  stop?: number | null;
}
export type SteerColumn = "default" | "steered" | "prompted" | "random";

export interface SteerRequest {
  site: string;
  name: string;
  prompt: string;
  edits: Edit[];
  positions?: Positions;
  /** Keep what the SAE fails to reconstruct (default true). */
  keep_error?: boolean;
  columns?: SteerColumn[];
  /** What the prompted baseline asks the model for ("Talk about July."); needed with that column. */
  instruction?: string;
  /** Latent of the random column; null draws one from the seed. */
  control?: number | null;
  /** Wrap the prompt in the model's chat template; null: when the model has one. */
  chat?: boolean | null;
  system?: string;
  /** Tokens to write at most (Limits.new_tokens). */
  n_tokens?: number;
  /** 0 takes the likeliest token each time. */
  temperature?: number;
  top_p?: number;
  seed?: number;
  measure?: boolean;
}

export interface MeasuredToken {
  token: number;
  text: string;
  log_prob: number | null;
  unsteered_log_prob: number | null;
  kl: number | null;
  /** One per edit, before and after it. */
  activations: number[];
  edited_activations: number[];
}
/**
 * One line of the stream of `POST /api/steer`: start, tokens of all columns step by step, done and measure per column,
 * end. A character cut over several tokens comes with the last of them; the tokens before it have the text "".
 */
export type SteerEvent =
  | {
      kind: "start";
      columns: {
        column: SteerColumn;
        prompt: string;
        prompt_tokens: string[];
        edits: { latent: number; operation: Operation; value: number }[];
      }[];
      control: number | null;
    }
  | { kind: "token"; column: SteerColumn; step: number; token: number; text: string; log_prob: number | null }
  | { kind: "done"; column: SteerColumn; text: string; n_tokens: number; stopped: "end" | "length" }
  | {
      kind: "measure";
      column: SteerColumn;
      n_tokens: number;
      /** Of the answer under the unsteered model. */
      perplexity: number | null;
      mean_kl: number | null;
      mean_log_prob_change: number | null;
      /** Shares of distinct 1-, 2- and 3-grams. */
      distinct: (number | null)[];
      tokens: MeasuredToken[];
      prompt_tokens: { text: string; activations: number[]; edited_activations: number[] }[];
    }
  | { kind: "end"; seconds: number; cancelled?: boolean }
  | { kind: "error"; error: string };

/** `POST /api/sweep`: the steered column alone at several strengths of the first edit. */
export interface SweepRequest extends SteerRequest {
  values: number[];
}
export type SweepEvent =
  /** With every token: the strengths at hand have `step` of at most `n_tokens`; `done` strengths were before them. */
  | { kind: "progress"; step: number; n_tokens: number; done: number }
  | {
      kind: "strength";
      value: number;
      text: string;
      n_tokens: number;
      perplexity: number | null;
      mean_kl: number | null;
      mean_log_prob_change: number | null;
      distinct: (number | null)[];
      /** Of the first edit's latent over the answer, after the edit. */
      mean_activation: number | null;
      [more: string]: unknown;
    }
  | { kind: "end"; seconds: number; cancelled?: boolean }
  | { kind: "error"; error: string };

// ---------------------------------------------------------------- notes

export interface Note {
  site: string;
  name: string;
  latent: number;
  bookmark: boolean;
  text: string;
  /** ISO 8601, set by the server. */
  changed: string;
  /** The latent's label at hand; empty without features. */
  label: string;
}
/** `PUT /api/notes`. With neither bookmark nor text left, the entry goes. */
export interface NoteChange {
  site: string;
  name: string;
  latent: number;
  bookmark?: boolean;
  text?: string;
  /** The text that the writer of `text` saw: 409 when another one was written since. */
  before?: string;
}

// ---------------------------------------------------------------- calls

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
  search: (site: string, name: string, q: string, limit?: number, signal?: AbortSignal) =>
    get<LabelSearch>(`${feature(site, name)}/search${query({ q, limit })}`, signal),
  token: (site: string, name: string, text: string, limit?: number, signal?: AbortSignal) =>
    get<TokenSearch>(`${feature(site, name)}/token${query({ text, limit })}`, signal),
  /** Loads the model at first need (seconds; poll `model` for its state). Works without features too. */
  text: (site: string, name: string, body: { text: string; latent?: number; top?: number }, signal?: AbortSignal) =>
    send<TextResult>("POST", `${feature(site, name)}/text`, body, signal),

  compare: (values: CompareQuery, signal?: AbortSignal) =>
    get<Comparison>(`/api/compare${query({ ...values })}`, signal),

  model: (signal?: AbortSignal) => get<ModelStatus>("/api/model", signal),
  loadModel: () => send<ModelStatus>("POST", "/api/model/load", {}),

  notes: async (signal?: AbortSignal) => (await get<{ notes: Note[] }>("/api/notes", signal)).notes,
  /** Changes one latent's bookmark, note or both; what is left out stays. Answers all notes. */
  putNote: async (change: NoteChange) => (await send<{ notes: Note[] }>("PUT", "/api/notes", change)).notes,

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
