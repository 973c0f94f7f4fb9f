/** Numbers and names as the pages show them. */
import type { SaeEntry } from "./api";
import { architecture } from "./looks";

const MINUS = "−";

/** Three significant figures, without trailing zeros beyond need; "–" for what was not measured. */
export function num(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  const size = Math.abs(value);
  if (size === 0) return "0";
  let text: string;
  if (size < 1e-3 || size >= 1e6) {
    const [mantissa = "", power = "0"] = value.toExponential(Math.max(0, digits - 2)).split("e");
    return `${mantissa.replace("-", MINUS)}×10${superscript(Number(power))}`;
  }
  if (size >= 10 ** digits) text = Math.round(value).toLocaleString("en");
  else text = Number.isInteger(value) ? `${value}` : value.toPrecision(digits);
  return text.replace("-", MINUS);
}

/** The same with a sign in front. */
export function signed(value: number | null | undefined, digits = 3): string {
  const text = num(value, digits);
  return value !== null && value !== undefined && value > 0 ? `+${text}` : text;
}

export function count(value: number | null | undefined): string {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : Math.round(value).toLocaleString("en");
}

/** A share as a percentage: 0.0123 → "1.23%". */
export function share(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0%";
  const percent = value * 100;
  if (percent < 0.001) return "<0.001%";
  if (percent >= 99.95) return "100%";
  return `${percent >= 1 ? percent.toFixed(1) : Number(percent.toPrecision(2))}%`;
}

/** How rare something is: "1 in 5,200"; "" where it is not known. */
export const oneIn = (value: number | null | undefined): string => (value == null ? "" : `1 in ${Math.round(value).toLocaleString("en")}`);

export function interval(ends: [number, number] | null | undefined, text: (value: number) => string = num): string {
  return ends ? `[${text(ends[0])}, ${text(ends[1])}]` : "";
}

export function superscript(power: number): string {
  const digits = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  return `${power}`.replace("-", "⁻").replace(/\d/g, (d) => digits[Number(d)] ?? d);
}

/** "JumpReLU, L0 32", "Frozen random (control), L0 32". */
export function saeTitle(sae: SaeEntry): string {
  if (sae.target_l0 === null) return sae.name;
  return `${architecture(sae.architecture)}${sae.control ? " (control)" : ""}, L0 ${num(sae.target_l0)}`;
}

/** The same as an entry of a list to choose from. */
export function saeOption(sae: SaeEntry): string {
  const remark = sae.stopped ? " (training stopped early)" : sae.has_features ? "" : " (no features)";
  return `${saeTitle(sae)}${sae.seed ? `, seed ${sae.seed}` : ""}${remark}`;
}

const COLUMNS: Record<string, [string, string]> = {
  latent: ["Latent", "Number of the latent in the dictionary"],
  n_fired: ["Times fired", "Tokens on which it is above zero"],
  firing_rate: ["Fires on", "Share of tokens on which it is above zero"],
  mean: ["Mean", "Mean activation over the tokens on which it fires"],
  max: ["Max", "Largest activation seen"],
  first_share: ["At first token", "Share of its firing that falls on the first token of a document"],
  last_share: ["At last token", "Share of its firing that falls on the last token of a document"],
  mean_position: ["Mean position", "Mean position in the context, in tokens"],
  token_entropy: ["Token entropy", "Spread over the tokens at which it fires, in bits: 0 means always the same token"],
  peak_likeness: ["Peaks alike", "How alike the tokens at its peaks are in the model's embedding: mean cosine, about 0 for unlike ones; none for a single token"],
  top_cosine: ["Nearest cosine", "Decoder cosine with the nearest other latent"],
  top_logit: ["Top logit", "Largest rise of an output token's logit by one unit of activation"],
  label_auroc: ["Label score", "AUROC on held-out text of telling where it fires from the label's tokens; 0.5 is chance"],
  label_auroc_low: ["Label score, low", "Lower end of the label score's 95% interval"],
  label_auroc_high: ["Label score, high", "Upper end of the label score's 95% interval"],
  hidden_auroc: ["Hidden-state score", "AUROC from the model's own mean hidden state at the same site"],
  top_token_auroc: ["Top-token score", "AUROC of the trivial rule: does the window hold the token that is commonest at its peaks?"],
  combined_auroc: ["Combined score", "AUROC of the label's and the hidden state's scores, added"],
  embedding_auroc: ["Embedding score", "AUROC from an embedding model's reading of label and window"],
  label_n: ["Scored on", "Held-out windows in which it fires, behind the scores"],
  label_n_negative: ["Scored against", "Held-out windows in which it is silent, behind the scores"],
  label_n_documents: ["Scored on documents", "Documents of the firing windows: what the intervals count"],
  label_n_negative_documents: ["Scored against documents", "Documents of the silent windows: what the intervals count"],
};
/** What the help says instead where the SAEs read rows of the user's own. */
const ROW_HELP: Record<string, string> = {
  n_fired: "Rows on which it is above zero",
  firing_rate: "Share of rows on which it is above zero",
  mean: "Mean activation over the rows on which it fires",
  label_auroc: "AUROC on held-out rows of telling where it fires from the label's words; 0.5 is chance",
  label_n: "Held-out rows on which it fires, behind the score",
  label_n_negative: "Held-out rows on which it is silent, behind the score",
  label_n_documents: "Groups of the firing rows: what the interval counts",
  label_n_negative_documents: "Groups of the silent rows: what the interval counts",
};
export const columnTitle = (name: string): string => COLUMNS[name]?.[0] ?? name.replaceAll("_", " ");
export const columnHelp = (name: string, unit = "tokens"): string => (unit === "rows" && ROW_HELP[name]) || (COLUMNS[name]?.[1] ?? "");
export const SHARES = new Set(["firing_rate", "first_share", "last_share"]);
export function columnValue(name: string, value: number | null | undefined): string {
  if (SHARES.has(name)) return share(value);
  if (name === "n_fired" || name.startsWith("label_n")) return count(value);
  return num(value);
}
/** A word of a command for a POSIX shell. */
export const shellQuoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
