/** What the steering page asks for, and how it is written in the address. */
import type { Edit, EditUnit, Operation, Positions, SaeEntry, SteerColumn, SteerRequest, SteeringRecipe } from "../api";

export const OPERATIONS: { value: Operation; text: string; help: string }[] = [
  { value: "set", text: "Set to", help: "Holds the latent at the value" },
  { value: "add", text: "Add", help: "Adds the value to the latent" },
  { value: "scale", text: "Scale by", help: "Multiplies the latent by the factor" },
  { value: "cap", text: "Cap at", help: "Lowers the latent to the value where it is above" },
  { value: "ablate", text: "Switch off", help: "Sets the latent to 0" },
  { value: "project", text: "Scale direction by", help: "Multiplies the activation's part along the latent's direction by the factor" },
];
export const UNITS: { value: EditUnit; text: string }[] = [
  { value: "max", text: "× its maximum" },
  { value: "norm", text: "× typical norm" },
  { value: "raw", text: "as activation" },
];
export const COLUMNS: { value: SteerColumn; text: string; about: string }[] = [
  { value: "default", text: "Default", about: "the model as it is" },
  { value: "steered", text: "Steered", about: "with the changes at the left" },
  { value: "prompted", text: "Prompted", about: "not steered, but told the instruction" },
  { value: "random", text: "Random latent", about: "the same changes to latents that fire about as often" },
];
const FACTORS = new Set<Operation>(["scale", "project"]);
export const hasUnit = (operation: Operation): boolean => operation !== "ablate" && !FACTORS.has(operation);

/** Ends of the slider: a range in which something happens. */
export function range(edit: Edit): [number, number, number] {
  if (!hasUnit(edit.operation)) return [-2, 5, 0.1];
  if (edit.unit === "max") return edit.operation === "cap" ? [0, 2, 0.05] : [-4, 8, 0.1];
  if (edit.unit === "norm") return [-2, 2, 0.02];
  return [-100, 200, 1];
}

export type Settings = Required<Pick<SteerRequest, "prompt" | "edits" | "positions" | "keep_error" | "columns" | "instruction" | "n_tokens" | "temperature" | "seed">> & {
  /** null: when the model has a chat template. */
  chat: boolean | null;
  /** Latent of the random column; null: drawn from the seed. */
  control: number | null;
};

const DEFAULTS = { prompt: "Tell me about your day.", n_tokens: 60, temperature: 0, seed: 0 };

/** `SITE/NAME`, as edits name an SAE. */
export const labelOf = (sae: { site: string; name: string }): string => `${sae.site}/${sae.name}`;

/** The SAE of an edit, which names none where it is the page's own; undefined where the run has no such SAE. */
export function saeOf(edit: { sae: string }, own: SaeEntry, saes: SaeEntry[]): SaeEntry | undefined {
  return edit.sae ? saes.find((sae) => labelOf(sae) === edit.sae) : own;
}

/** SAEs whose latents can be edited: transcoders read another site than they write to. */
export const editable = (saes: SaeEntry[]): SaeEntry[] => saes.filter((sae) => !sae.stopped && !sae.source_site);

/** Edits are LATENT:OPERATION:VALUE:UNIT, of another SAE with SITE/NAME: before, separated by commas. A string in place
 * of an edit says why it can't be made. */
function parsedEdits(text: string | null, own: SaeEntry, saes: SaeEntry[]): (Edit | string)[] {
  return (text ?? "").split(",").filter(Boolean).map((part) => {
    const words = part.split(":");
    const named = words.length > 1 && !/^\d*$/.test(words[0] ?? "") ? (words.shift() ?? "") : "";
    const [latent = "", operation = "", value = "0", unit = "max"] = words;
    const sae = named === labelOf(own) ? "" : named;
    const entry = OPERATIONS.find((option) => option.value === operation);
    const edited = saeOf({ sae }, own, saes);
    if (!edited) return `“${part}”: this run has no SAE ${named}`;
    if (!/^\d+$/.test(latent) || Number(latent) >= edited.d_sae) return `“${part}”: there is no latent ${latent}; ${named || "this SAE"} has latents 0 to ${edited.d_sae - 1}`;
    if (!entry) return `“${part}”: the change is one of ${OPERATIONS.map((option) => option.value).join(", ")}, as in ${latent}:set:1.5:max`;
    return { latent: Number(latent), operation: entry.value, value: Number(value) || 0, unit: UNITS.find((option) => option.value === unit)?.value ?? "max", sae };
  });
}
const editsOf = (text: string | null, own: SaeEntry, saes: SaeEntry[]): Edit[] => parsedEdits(text, own, saes).filter((edit) => typeof edit !== "string");
/** Why changes that an address asks for can't be made, one sentence for each. */
export const editProblems = (query: URLSearchParams, own: SaeEntry, saes: SaeEntry[]): string[] =>
  parsedEdits(query.get("e"), own, saes).filter((edit) => typeof edit === "string");

export const editText = (edit: Edit): string => `${edit.sae ? `${edit.sae}:` : ""}${edit.latent}:${edit.operation}:${edit.value}:${edit.unit}`;

function positionsOf(text: string | null): Positions {
  if (text === "prompt" || text === "generated") return { where: text };
  const range = text?.match(/^(\d+)-(\d*)$/);
  return range ? { where: "range", start: Number(range[1]), stop: range[2] ? Number(range[2]) : null } : { where: "all" };
}

export function read(query: URLSearchParams, own: SaeEntry, saes: SaeEntry[]): Settings {
  const number = (key: string, otherwise: number) => (query.has(key) ? Number(query.get(key)) || 0 : otherwise);
  const columns = query.get("columns")?.split("+") ?? ["default", "steered", "prompted", "random"];
  const chat = query.get("chat");
  const control = Number(query.get("control") || NaN);
  return {
    prompt: query.get("prompt") ?? DEFAULTS.prompt,
    edits: editsOf(query.get("e"), own, saes),
    positions: positionsOf(query.get("at")),
    keep_error: query.get("error") !== "drop",
    columns: COLUMNS.map((option) => option.value).filter((column) => columns.includes(column)),
    instruction: query.get("say") ?? "",
    chat: chat === null ? null : chat === "yes",
    control: Number.isInteger(control) && control >= 0 && control < own.d_sae ? control : null,
    n_tokens: number("n", DEFAULTS.n_tokens),
    temperature: number("temperature", DEFAULTS.temperature),
    seed: number("seed", DEFAULTS.seed),
  };
}

/** The address's values for settings; null where the default holds. */
export function written(settings: Settings): Record<string, string | number | null> {
  const { positions: p } = settings;
  const at = p.where === "range" ? `${p.start ?? 0}-${p.stop ?? ""}` : p.where;
  return {
    prompt: settings.prompt === DEFAULTS.prompt ? null : settings.prompt,
    e: settings.edits.map(editText).join(","),
    at: at === "all" ? null : at,
    error: settings.keep_error ? null : "drop",
    columns: settings.columns.length === COLUMNS.length ? null : settings.columns.join("+"),
    say: settings.instruction,
    chat: settings.chat === null ? null : settings.chat ? "yes" : "no",
    control: settings.control,
    n: settings.n_tokens === DEFAULTS.n_tokens ? null : settings.n_tokens,
    temperature: settings.temperature === DEFAULTS.temperature ? null : settings.temperature,
    seed: settings.seed === DEFAULTS.seed ? null : settings.seed,
  };
}

/** The request; a prompted column without an instruction is left out, as the page says. */
export function request(settings: Settings, sae: { site: string; name: string }): SteerRequest {
  const columns = settings.columns.filter((column) => column !== "prompted" || settings.instruction.trim() !== "");
  return { site: sae.site, name: sae.name, ...settings, columns };
}

/** The settings as a recipe, in which every edit names its SAE. */
export function recipeOf(name: string, settings: Settings, own: SaeEntry, model: string): SteeringRecipe {
  const { positions, keep_error, prompt, instruction } = settings;
  const edits = settings.edits.map((edit) => ({ ...edit, sae: edit.sae || labelOf(own) }));
  return { name, sae: labelOf(own), edits, positions, keep_error, prompt, instruction, model, about: "" };
}

/** The address's values that bring a recipe's settings back. */
export function recipeQuery(recipe: SteeringRecipe): Record<string, string> {
  const edits = recipe.edits.map((edit) => ({ operation: "set", value: 0, unit: "raw", sae: "", ...edit }) as Edit);
  const values = written({
    prompt: recipe.prompt || DEFAULTS.prompt,
    edits: edits.map((edit) => (edit.sae === recipe.sae ? { ...edit, sae: "" } : edit)),
    positions: { where: "all", ...recipe.positions },
    keep_error: recipe.keep_error ?? true,
    columns: COLUMNS.map((option) => option.value),
    instruction: recipe.instruction ?? "",
    chat: null,
    control: null,
    n_tokens: DEFAULTS.n_tokens,
    temperature: DEFAULTS.temperature,
    seed: DEFAULTS.seed,
  });
  return Object.fromEntries(Object.entries(values).flatMap(([key, value]) => (value === null || value === "" ? [] : [[key, `${value}`]])));
}
