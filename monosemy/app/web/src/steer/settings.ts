/** What the steering page asks for, and how it is written in the address. */
import type { Edit, EditUnit, Operation, Positions, SteerColumn, SteerRequest } from "../api";

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
  { value: "norm", text: "× activation norm" },
  { value: "raw", text: "as activation" },
];
export const COLUMNS: { value: SteerColumn; text: string; about: string }[] = [
  { value: "default", text: "Default", about: "the model as it is" },
  { value: "steered", text: "Steered", about: "with the changes at the left" },
  { value: "prompted", text: "Prompted", about: "not steered, but told the instruction" },
  { value: "random", text: "Random latent", about: "the same change to another latent that fires as often" },
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

/** Edits are LATENT:OPERATION:VALUE:UNIT, separated by commas. */
function editsOf(text: string | null, d_sae: number): Edit[] {
  return (text ?? "").split(",").flatMap((part) => {
    const [latent = "", operation = "", value = "0", unit = "max"] = part.split(":");
    const number = Number(latent);
    const entry = OPERATIONS.find((option) => option.value === operation);
    if (!latent || !Number.isInteger(number) || number < 0 || number >= d_sae || !entry) return [];
    return [{ latent: number, operation: entry.value, value: Number(value) || 0, unit: UNITS.find((option) => option.value === unit)?.value ?? "max" }];
  });
}

function positionsOf(text: string | null): Positions {
  if (text === "prompt" || text === "generated") return { where: text };
  const range = text?.match(/^(\d+)-(\d*)$/);
  return range ? { where: "range", start: Number(range[1]), stop: range[2] ? Number(range[2]) : null } : { where: "all" };
}

export function read(query: URLSearchParams, d_sae: number): Settings {
  const number = (key: string, otherwise: number) => (query.has(key) ? Number(query.get(key)) || 0 : otherwise);
  const columns = query.get("columns")?.split("+") ?? ["default", "steered", "prompted", "random"];
  const chat = query.get("chat");
  const control = Number(query.get("control") || NaN);
  return {
    prompt: query.get("prompt") ?? DEFAULTS.prompt,
    edits: editsOf(query.get("e"), d_sae),
    positions: positionsOf(query.get("at")),
    keep_error: query.get("error") !== "drop",
    columns: COLUMNS.map((option) => option.value).filter((column) => columns.includes(column)),
    instruction: query.get("say") ?? "",
    chat: chat === null ? null : chat === "yes",
    control: Number.isInteger(control) && control >= 0 && control < d_sae ? control : null,
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
    e: settings.edits.map((e) => `${e.latent}:${e.operation}:${e.value}:${e.unit}`).join(","),
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
