/** Types of the HTTP API. Made from monosemy/app/schema by `make web`: change them there. */

export interface Available {
  cosine: boolean;
  correlation: boolean;
}

/** Bounds of one column, both inclusive, within which a latent is clear; null: none at that end. */
export interface ClearBound {
  column: string;
  min: number | null;
  max: number | null;
}

export interface ComparedPair {
  a: number;
  b: number;
  label_a: string;
  label_b: string;
  /** Null where the two SAEs read spaces of different width. */
  cosine: number | null;
  /** Of activations over the same tokens; null where it was not measured. */
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
  available: Available;
  /** Why a measure is not available, for the user; empty when both are. */
  notes: string[];
  /** A latent is matched when its best value is at least this. */
  threshold: number;
  n_matched_a: number;
  n_matched_b: number;
  n_mutual: number;
  /** Best value per latent, as counts between edges. */
  distribution: Distribution;
  view: "matched" | "only_a" | "only_b";
  total: number;
  offset: number;
  /** Rows of the view asked for. */
  rows: ComparedPair[];
}

/** `POST …/text-difference`: two texts. */
export interface DifferenceBody {
  text: string;
  other: string;
  chat?: boolean;
}

export interface DifferenceRow {
  latent: number;
  label: string;
  /** Null where it is silent. */
  first: TextSide | null;
  second: TextSide | null;
}

export interface Distribution {
  edges: number[];
  a: number[];
  b: number[];
}

export interface DoneEvent {
  kind: "done";
  column: "default" | "steered" | "prompted" | "random";
  text: string;
  n_tokens: number;
  stopped: "end" | "length";
}

/** One change to one latent. */
export interface Edit {
  latent: number;
  /** One of `OPERATIONS`. */
  operation?: "add" | "set" | "scale" | "cap" | "ablate" | "project";
  /** In `unit`; a factor for scale and project; not used by ablate. */
  value?: number;
  /** One of `UNITS`; not used by scale, project and ablate. */
  unit?: "raw" | "max" | "norm";
  /** `SITE/NAME` of the latent's SAE; empty: the one that the request is about. */
  sae?: string;
}

export interface EndEvent {
  kind: "end";
  seconds: number;
  cancelled?: boolean;
  [more: string]: unknown;
}

export interface ErrorEvent {
  kind: "error";
  error: string;
}

/**
 * One evaluated SAE or control, as in evaluation.json.
 *
 * Every interval is a 95% bootstrap interval over documents.
 */
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

/** `POST …/evidence`: a text, or two, and the file that is asked for; answers the file itself. */
export interface EvidenceBody {
  text: string;
  /** csv, json or html. */
  format: string;
  /** A second text: the file then has every latent that fires in either, and what differs. */
  other?: string | null;
  chat?: boolean;
}

/** A context in which the latent fires, nearly fires, or that was drawn at random. */
export interface Example {
  tokens: string[];
  special: number[];
  group: "top" | "q0" | "q1" | "q2" | "q3" | "q4" | "near_miss" | "random";
  /** Number of the stored context: the same context under two latents has the same number. */
  context: number;
  /** Position of tokens[0] within the context; more can be asked with `window=0`. */
  start: number;
  /** The context's whole length. */
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
  /** Number of the row in the table, from 0, where the run is on rows of the user's own. */
  row: number | null;
  /** Whether the row has a thumbnail, at `…/picture/CONTEXT`. */
  picture: boolean;
}

/** What a chat model wrote of a latent (features/explain/explanations.py). */
export interface Explanation {
  text: string;
  /** Name of the chat model; empty where it was not recorded. */
  model: string;
  /** Contexts that it was shown; null where that was not recorded. */
  n_passages: number | null;
  /** By test: {measure, measure_low, measure_high: its 95% interval, n_positive, n_negative, …}. */
  scores: Record<string, Record<string, number | null>>;
  /** By test that was not made: why. */
  skipped: Record<string, string>;
  [more: string]: unknown;
}

/** `GET …/info`: the database's own info (FeatureDatabase.info). */
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
  model: ModelIdentity;
  median_norm?: number;
  created: string;
  [more: string]: unknown;
}

export interface FiringLatent {
  latent: number;
  value: number;
  label: string;
  /** The latent is at least this strong on one in so many tokens of the features' text; null without features. */
  one_in: number | null;
}

export interface FiringSummary {
  latent: number;
  value: number;
  label: string;
  /** The latent is at least this strong on one in so many tokens of the features' text; null without features. */
  one_in: number | null;
  /** The token at which the value is reached. */
  peak: number;
  /** Tokens on which it fires. */
  n_tokens: number;
}

/** Rank correlation of computed influence and measured effect of ablation, over nodes. */
export interface GraphAgreement {
  rho: number | null;
  interval: [number, number] | null;
  n: number;
}

export interface GraphAgreements {
  /** With attention that answers. */
  free: GraphAgreement;
  /** With attention patterns held. */
  frozen: GraphAgreement;
}

/** `GET /api/graph/NAME/contexts/NODE`: the strongest contexts of a latent. */
export interface GraphContexts {
  examples: Example[];
  /** Its largest activation on the features' text. */
  max: number | null;
}

export interface GraphEdit {
  /** A latent's place in GraphNodes. */
  node: number;
  /** What its activation is multiplied by: 0 ablates it. */
  factor: number;
}

/** `POST /api/graph/NAME/edit`: runs the model with these edits. */
export interface GraphEdits {
  edits: GraphEdit[];
  /** Whether attention patterns are held as they are on the prompt. */
  frozen?: boolean;
}

/** A graph of the run. */
export interface GraphEntry {
  /** Its folder's name, as in addresses. */
  name: string;
  prompt: string;
  /** When it was written, in seconds since 1970. */
  written: number;
  n_tokens: number;
  n_latents: number;
  replacement: number | null;
  completeness: number | null;
  /** Why it cannot be read; empty when all is well. */
  problem: string;
}

/** The next token with and without the edits. */
export interface GraphIntervention {
  seconds: number;
  /** From the prediction before to that after, in nats. */
  kl: number;
  /** The graph's logits and the likeliest tokens of both, by the larger probability. */
  tokens: GraphTokenChange[];
}

/** Columns, one value a link; nodes by their place in GraphNodes. */
export interface GraphLinks {
  source: number[];
  target: number[];
  /** Direct effect, in units of the target's pre-activation or logit. */
  effect: number[];
}

/** `GET /api/graphs`. */
export interface GraphList {
  graphs: GraphEntry[];
}

/** Columns, one value a node; null where a node has no such thing. */
export interface GraphNodes {
  kind: ("latent" | "error" | "token" | "logit")[];
  /** −1 for a token; the number of layers for a logit. */
  layer: number[];
  position: number[];
  /** Of a latent in its dictionary, or of a token in the vocabulary; −1 for an error. */
  number: number[];
  /** The token at the node's position; a logit's own. */
  piece: string[];
  /** Of a latent; empty without features. */
  label: string[];
  activation: (number | null)[];
  /** The share of all influence on the logits. */
  influence: (number | null)[];
  /** The share of all influence that nodes with more of it carry: a node is kept at a share above that. */
  before: (number | null)[];
  /** Of a latent or logit: the sum of |effect| over everything that reaches it, in the whole graph. */
  size: (number | null)[];
  /** Of a logit. */
  probability: (number | null)[];
  /** Measured: probability-weighted change of the logits without the latent, attention answering. */
  free: (number | null)[];
  /** The same with attention patterns held. */
  frozen: (number | null)[];
}

/** `GET /api/graph/NAME`: the graph as its page prunes and draws it (circuits/graphs/page_data.py). */
export interface GraphPage {
  format: string;
  version: number;
  name: string;
  prompt: string;
  model: string;
  n_layers: number;
  tokens: string[];
  token_ids: number[];
  /** Those of the run; empty for a graph made with others. */
  transcoders: GraphTranscoder[];
  /** Layers whose transcoder has features: contexts and labels. */
  with_features: number[];
  /** Layers without a transcoder: the whole MLP's output is an error. */
  bare_layers: number[];
  /** Active latents on the prompt. */
  n_active: number;
  /** Those of them that are nodes of the whole graph. */
  n_latents: number;
  replacement: number | null;
  completeness: number | null;
  /** The pruning that the graph was made with: the least share of influence that nodes carry. */
  node_share: number;
  edge_share: number;
  /** The share of influence that the nodes here carry: pruning goes up to it. */
  wide_share: number;
  /** The share of influence between these nodes that the links here carry. */
  links_share: number;
  /** Null where nothing was ablated. */
  agreement: GraphAgreements | null;
  nodes: GraphNodes;
  links: GraphLinks;
}

export interface GraphTokenChange {
  id: number;
  text: string;
  /** Probability as the next token. */
  before: number;
  after: number;
  /** Of the logit, less the mean change over the vocabulary. */
  change: number;
}

export interface GraphTranscoder {
  layer: number;
  /** Of the run, as for `SaeEntry`. */
  site: string;
  name: string;
  /** The share of the variance of the MLP's outputs on this prompt that it misses. */
  fvu: number | null;
}

/** A latent that stands for what an SAE found. */
export interface Highlight {
  latent: number;
  label: string;
  /** Its firing rate, and its label's score with the interval: firing_rate, label_auroc, label_auroc_low, … */
  stats: Record<string, number | null>;
  /** Two of its strongest contexts. */
  examples: Example[];
}

/** `GET …/highlights`: a handful of clear latents, unlike each other (features/view/highlights.py). */
export interface Highlights {
  latents: Highlight[];
  /** Clear latents in the whole dictionary. */
  n_clear: number;
  /** The lower end of a label's score from which on a latent is clear. */
  clear_score: number;
}

export interface Histogram {
  edges: number[];
  counts: number[];
}

/** The label and what backs it (features/labels/labelling.py, features/explain/command.py). */
export interface Label {
  text: string;
  hints?: string[];
  /** Tokens over-represented at the peaks; `value`: log-odds in standard deviations. */
  peak_tokens?: OutputToken[];
  /** The same just before the peaks. */
  before_tokens?: OutputToken[];
  /** A chat model's explanation where `monosemy explain` was run. */
  explanation?: Explanation | null;
  /** Whether the explanation is the heading, here and in lists: it tells the latent's firing better than `text`. */
  explanation_leads?: boolean;
  /** label_auroc, hidden_auroc, top_token_auroc, … with _low and _high; label_n: the windows behind them. */
  scores?: Record<string, number | null>;
  [more: string]: unknown;
}

/** `GET …/search`. */
export interface LabelSearch {
  hits: SearchHit[];
}

/** `GET …/latents`. */
export interface LatentList {
  /** Latents that pass the filters, over the whole dictionary. */
  total: number;
  offset: number;
  columns: string[];
  rows: LatentRow[];
}

/** `GET …/latent/N`. */
export interface LatentPage {
  latent: number;
  d_sae: number;
  label: Label;
  /** Every column's value for this latent. */
  stats: Record<string, number | null>;
  /**
   * What steering's unit `max` multiplies: the largest activation on the evaluation's validation text; of the
   * features' text where it is silent there or nothing was evaluated. Null where it fired on neither.
   */
  steering_max: SteeringMax | null;
  /** Counts of positive activations between edges[i] and edges[i+1]. */
  histogram: Histogram;
  quantiles: Quantiles;
  /** Firing counts by position in the context (bucket i of equal width). */
  positions: number[];
  raised: OutputToken[];
  lowered: OutputToken[];
  /** Why the two are empty: the site has no direct path to the output. Null where it has one. */
  no_output_tokens: string | null;
  neighbours: Neighbours;
  examples: Example[];
}

export interface LatentRow {
  latent: number;
  /** Empty where labels do not exist. */
  label: string;
  /** One value per name in LatentList.columns. */
  values: (number | null)[];
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

export interface MeaningHit {
  latent: number;
  label: string;
  /** What the order comes from: full-text rank, or the token's score for this latent. Higher is better. */
  score: number;
  firing_rate: number | null;
  label_auroc: number | null;
  /** Tokens of the latent or its label that lie nearest to the query. */
  by: string[];
}

/** The answer to `POST …/meaning`: latents by how near their words lie to the query's in the model's embedding. */
export interface MeaningSearch {
  /** Score from which on a latent is taken to be about the query; those below are merely the nearest. */
  near: number;
  hits: MeaningHit[];
}

export interface MeasureEvent {
  n_tokens: number;
  /** Of the answer under the unsteered model. */
  perplexity: number | null;
  mean_kl: number | null;
  mean_log_prob_change: number | null;
  /** Shares of distinct 1-, 2- and 3-grams. */
  distinct: (number | null)[];
  kind: "measure";
  column: "default" | "steered" | "prompted" | "random";
  tokens: MeasuredToken[];
  prompt_tokens: PromptToken[];
  [more: string]: unknown;
}

export interface MeasuredToken {
  text: string;
  /** One per edit. */
  activations: number[];
  /** The same after the edit. */
  edited_activations: number[];
  token: number;
  log_prob: number | null;
  unsteered_log_prob: number | null;
  kl: number | null;
}

export interface ModelIdentity {
  name: string;
  fingerprint: string;
  [more: string]: unknown;
}

/** The run's language model, which is loaded at first need. */
export interface ModelStatus {
  state: "absent" | "loading" | "ready" | "failed";
  name: string;
  /** What is happening or why it failed, for the user; empty when there is nothing to say. */
  message: string;
  /** Since loading began; null unless loading. */
  seconds: number | null;
  /** Whether the model's tokenizer has a chat template; null until loaded. */
  chat: boolean | null;
}

export interface Neighbour {
  latent: number;
  label: string;
  /** Decoder cosine, or correlation of firing. */
  value: number;
}

export interface Neighbours {
  decoder: Neighbour[];
  coactivation: Neighbour[];
}

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

/** `PUT /api/notes`. What is left out stays; with neither bookmark nor text left, the entry goes. */
export interface NoteChange {
  site: string;
  name: string;
  latent: number;
  bookmark?: boolean;
  text?: string;
  /** The text that the writer of `text` saw: 409 when another one was written since. */
  before?: string;
}

/** `GET /api/notes`, and the answer to a change. */
export interface Notes {
  notes: Note[];
}

export interface OutputToken {
  id: number;
  text: string;
  /** Change of the logit by one unit of activation, centred over the vocabulary. */
  value: number;
}

/**
 * Which tokens' activations are edited.
 *
 * `where`: all; prompt (the tokens of the prompt, its chat markers included); generated (the tokens that the model
 * wrote, so that the first of them is not yet affected); range (token numbers start ≤ p < stop, counted from 0 at the
 * prompt's first token; stop None: no end). Left alone in every case: the first token, and tokens whose activation is
 * an outlier (`edits.read_scales`), on which no SAE was trained.
 */
export interface Positions {
  where?: "all" | "prompt" | "generated" | "range";
  start?: number;
  stop?: number | null;
}

/** With every token: the strengths at hand have `step` of at most `n_tokens`; `done` strengths were before them. */
export interface ProgressEvent {
  kind: "progress";
  step: number;
  n_tokens: number;
  done: number;
}

export interface PromptToken {
  text: string;
  /** One per edit. */
  activations: number[];
  /** The same after the edit. */
  edited_activations: number[];
}

export interface Quantiles {
  levels: number[];
  values: (number | null)[];
}

/** `POST /api/recipes/forget`. */
export interface RecipeName {
  name: string;
}

/** `GET /api/recipes`, and the answer to a change (`PUT /api/recipes` takes one `SteeringRecipe`). */
export interface Recipes {
  recipes: SteeringRecipe[];
  /** Files that could not be read, and why. */
  problems: string[];
}

export interface ResolvedEdit {
  /** `SITE/NAME`, or empty for the SAE that the request is about. */
  sae: string;
  latent: number;
  operation: "add" | "set" | "scale" | "cap" | "ablate" | "project";
  /** In raw units; a factor for scale and project. */
  value: number;
}

/** `GET /api/run`. */
export interface RunInfo {
  /** The folder's own name. */
  name: string;
  /** The folder's absolute path, for commands, and to tell apart runs of one name. */
  path: string;
  /** What the SAEs read: tokens of text, or rows of the user's own, behind which there is no language model. */
  unit: "tokens" | "rows";
  /** Rows of the table; null for a run on text. */
  n_rows: number | null;
  /** Whether the rows were given texts. */
  row_texts: boolean;
  version: string;
  /** Site by site; controls last. */
  saes: SaeEntry[];
  evaluation: EvaluationRecord[];
  /** By architecture or control, in the order of figures and lists. */
  styles: Record<string, SeriesStyle>;
  clean_loss: number | null;
  model: ModelStatus;
  /** The command that builds features of the run's default SAE, for the hint where there are none at all. */
  build_command: string;
  has_report: boolean;
  /** Whether it has attribution graphs, or transcoders to make some with. */
  has_graphs: boolean;
  /** What makes a latent clear, for the filter of that name; columns that an SAE lacks are no bound. */
  clear: ClearBound[];
  limits: Limits;
}

/** The SAE that a request is about. */
export interface SaeBody {
  site: string;
  name: string;
}

/** An SAE or control of the run. */
export interface SaeEntry {
  site: string;
  /** The site that a transcoder reads, which gives that of `site`; null for an SAE. */
  source_site: string | null;
  name: string;
  /** What it goes by: of a control "frozen_random", whatever it is trained as. */
  architecture: string;
  control: boolean;
  /** Why its training stopped early; empty for one trained to its end. */
  stopped: string;
  /** Whether it was trained elsewhere, and imported. */
  imported: boolean;
  /** What must be known of its numbers: a first look, or what differs from an imported SAE's publisher's. */
  warnings: string[];
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
  /** Where a list's and a scatter's numbers come from: a built feature database, or the evaluation's statistics. */
  column_source: "features" | "evaluation" | "none";
  /** Names accepted by `columns`, `latents?sort=` and the filters. */
  columns: string[];
}

export interface SearchHit {
  latent: number;
  label: string;
  /** What the order comes from: full-text rank, or the token's score for this latent. Higher is better. */
  score: number;
  firing_rate: number | null;
  label_auroc: number | null;
}

/** How an architecture is drawn (report/theme.py). */
export interface SeriesStyle {
  label: string;
  /** Colour on a light page. */
  light: string;
  /** Colour on a dark page. */
  dark: string;
  /** By matplotlib's letter. */
  marker: string;
  /** Lengths of dashes and gaps in line widths; empty: a solid line. */
  dashes: number[];
}

export interface StartEvent {
  kind: "start";
  columns: StartedColumn[];
  control: number | null;
}

export interface StartedColumn {
  column: "default" | "steered" | "prompted" | "random";
  prompt: string;
  prompt_tokens: string[];
  edits: ResolvedEdit[];
}

export type SteerEvent = StartEvent | TokenEvent | DoneEvent | MeasureEvent | EndEvent | ErrorEvent;

/** A latent that makes the model say the words it fires on. */
export interface SteerExample {
  latent: number;
  label: string;
  words: string[];
  /** Probability of one of the words after a neutral prompt. */
  before: number;
  /** The same with the latent pushed. */
  after: number;
}

/** `POST …/steer-examples`: latents with which steering works at a click, best first; maybe none. */
export interface SteerExamples {
  examples: SteerExample[];
}

export interface SteeringMax {
  value: number;
  text: "validation" | "features";
}

/**
 * Edits by name. Raises UserError for no edit, an edit whose SAE is not named, and edits that contradict each
 * other.
 */
export interface SteeringRecipe {
  name: string;
  /** `SITE/NAME` of the SAE with which the steering page opens. */
  sae: string;
  /** Each names its SAE. */
  edits: Edit[];
  positions?: Positions;
  keep_error?: boolean;
  /** What it was tried on; may be empty. */
  prompt?: string;
  /** What the prompted column was told; may be empty. */
  instruction?: string;
  /** Name of the model that it was made with. */
  model?: string;
  /** Where it comes from, in a sentence; may be empty. */
  about?: string;
}

/** Everything one steered generation depends on, beside model and SAE. */
export interface SteeringRequest {
  prompt: string;
  /** At most one of `DECIDING` per latent of an SAE; any number of `add`. */
  edits: Edit[];
  positions?: Positions;
  /** Keep what the SAE does not reconstruct; False replaces edited positions by the edited reconstruction. */
  keep_error?: boolean;
  /**
   * Of `COLUMNS`; None: default, steered, with an instruction prompted, and random where a latent is left for it.
   * `prompted` is the unsteered model with `instruction` before the prompt; `random` makes the same edits, of the same
   * raw strength, to another latent that fires about as often.
   */
  columns?: ("default" | "steered" | "prompted" | "random")[] | null;
  /** For the prompted column, e.g. `Talk about July.` */
  instruction?: string;
  /** The random column's latent in the place of the first edit's, of the same SAE; None draws it from `seed` too. */
  control?: number | null;
  /** Wrap the prompt by the model's chat template; None: when the model has one. */
  chat?: boolean | null;
  /** The chat's system message; empty leaves the template's own. */
  system?: string;
  /** Tokens to write at most. */
  n_tokens?: number;
  /** 0 takes the most probable token (greedy). */
  temperature?: number;
  /** Sample among the most probable tokens that hold this share of the probability. */
  top_p?: number;
  /** Of sampling and of the drawn control. All columns share the random numbers of a step. */
  seed?: number;
  measure?: boolean;
}

export interface StrengthEvent {
  n_tokens: number;
  /** Of the answer under the unsteered model. */
  perplexity: number | null;
  mean_kl: number | null;
  mean_log_prob_change: number | null;
  /** Shares of distinct 1-, 2- and 3-grams. */
  distinct: (number | null)[];
  kind: "strength";
  value: number;
  text: string;
  /** Of the first edit's latent over the answer, after the edit. */
  mean_activation: number | null;
  [more: string]: unknown;
}

export type SweepEvent = ProgressEvent | StrengthEvent | EndEvent | ErrorEvent;

/** `POST /api/sweep` adds these to a steering request: strengths of the first edit. */
export interface SweepValues {
  site: string;
  name: string;
  values: unknown[];
}

/** `POST …/text`: a text of the user's own. */
export interface TextBody {
  text: string;
  /** Strongest latents listed per token. */
  top?: number;
  /** The latent whose activations are asked for. */
  latent?: number | null;
  /** The text is a chat's transcript, which is written out with the model's template (app/transcript.py). */
  chat?: boolean;
}

/** `POST …/text-difference`: the latents in which two texts differ, the largest difference first. */
export interface TextDifference {
  rows: DifferenceRow[];
  /** Latents that fire in the first text only. */
  n_first: number;
  n_second: number;
  n_both: number;
  /** Tokens left out at the end of the first text, if it is very long. */
  n_dropped_first: number;
  n_dropped_second: number;
}

/** `POST …/text`: the SAE's code of the user's own text. */
export interface TextResult {
  tokens: string[];
  special: number[];
  /** Per token, its strongest latents first (at most `top`). */
  top: FiringLatent[][];
  /** Whose message each token belongs to, "" for the template's; empty for a text that is no chat. */
  roles: string[];
  /** Latents by how unusual their largest value over the text is for them; by that value without features. */
  summary: FiringSummary[];
  /** Activation of `latent` at each token; null unless asked. */
  trace: number[] | null;
  /** Active latents per token. */
  l0: number[];
  /** Tokens left out at the end of a very long text. */
  n_dropped: number;
  /** Windows in which the text was read: one longer than the model's context is read in several that overlap. */
  n_windows: number;
}

/** A latent in one of two texts. */
export interface TextSide {
  /** Its largest activation. */
  value: number;
  one_in: number | null;
  n_tokens: number;
}

/** A character cut over several tokens comes with the last of them; the tokens before it have the text "". */
export interface TokenEvent {
  kind: "token";
  column: "default" | "steered" | "prompted" | "random";
  step: number;
  token: number;
  text: string;
  log_prob: number | null;
}

export interface TokenHit {
  latent: number;
  label: string;
  /** What the order comes from: full-text rank, or the token's score for this latent. Higher is better. */
  score: number;
  firing_rate: number | null;
  label_auroc: number | null;
  token: number;
}

/** `GET …/token`. */
export interface TokenSearch {
  /** Vocabulary tokens whose text matches, best first (exact text before prefix). */
  tokens: VocabularyToken[];
  /** Latents that peak on them most. */
  hits: TokenHit[];
}

export interface VocabularyToken {
  id: number;
  text: string;
}
