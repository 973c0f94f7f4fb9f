/** Filters of the list of latents in words: presets in groups, what is in force, and exact bounds of every column behind. */
import { Fragment } from "preact";
import { useMemo } from "preact/hooks";
import type { RunInfo, SaeEntry } from "../api";
import { SHARES, columnHelp, columnTitle, columnValue, count } from "../format";
import { setQuery } from "../router";
import { useShared } from "../state";
import type { Problem } from "./address";
import { NumberField } from "./number";
import { Explained, explain } from "./term";

type Columns = Record<string, Float32Array>;
export interface Bounds {
  min: Record<string, number>;
  max: Record<string, number>;
}
interface Filter {
  group: string;
  name: string;
  help: string;
  min?: Record<string, number>;
  max?: Record<string, number>;
}

const CLEAR = "Clear";
/** In the order in which one asks: is the label any good, how often does it fire, on what, is it unlike others? */
const FILTERS: Filter[] = [
  { group: "Label", name: "Fits closely", help: "The label tells where it fires with a score of at least 0.95", min: { label_auroc: 0.95 } },
  { group: "Label", name: "Fails", help: "The label tells where it fires with a score of at most 0.7, where 0.5 is chance", max: { label_auroc: 0.7 } },
  { group: "How often", name: "Dead", help: "Never fired on what the features were built from", max: { firing_rate: 0 } },
  { group: "How often", name: "Rare", help: "Fires, on at most 0.05%: once in 2,000", min: { n_fired: 1 }, max: { firing_rate: 5e-4 } },
  { group: "How often", name: "Common", help: "Fires on at least 1%", min: { firing_rate: 0.01 } },
  { group: "How often", name: "Over-active", help: "Fires on at least 10%", min: { firing_rate: 0.1 } },
  { group: "On what", name: "One token", help: "Almost always the same token: entropy of at most 0.5 bits", max: { token_entropy: 0.5 } },
  { group: "On what", name: "Tokens of a kind", help: "Several tokens that are alike in the model's embedding: mean cosine of at least 0.25", min: { peak_likeness: 0.25 } },
  { group: "On what", name: "Many tokens", help: "As many different ones as 64 equally common ones: entropy of at least 6 bits", min: { token_entropy: 6 } },
  { group: "On what", name: "First token", help: "At least half of its firing falls on the first token of a document", min: { first_share: 0.5 } },
  { group: "Like others", name: "Near copies", help: "Decoder cosine of at least 0.9 with another latent", min: { top_cosine: 0.9 } },
  { group: "Like others", name: "On its own", help: "Decoder cosine of at most 0.2 with every other latent", max: { top_cosine: 0.2 } },
];

/** The presets for which an SAE has the columns; the first is what the overview calls clear, as the server counts it. */
function filtersOf(run: RunInfo, sae: SaeEntry): Filter[] {
  const bounds = run.clear.filter(({ column }) => sae.columns.includes(column));
  const clear: Filter = {
    group: "Label",
    name: CLEAR,
    help: bounds.map(({ column, min, max }) => inWords(column, min ?? undefined, max ?? undefined)).join("; "),
    min: Object.fromEntries(bounds.flatMap(({ column, min }) => (min === null ? [] : [[column, min]]))),
    max: Object.fromEntries(bounds.flatMap(({ column, max }) => (max === null ? [] : [[column, max]]))),
  };
  const scored = sae.columns.includes("label_auroc_low");
  return [...(scored ? [clear] : []), ...FILTERS].filter((filter) => columnsOf(filter).every((name) => sae.columns.includes(name)));
}

/** "Fires on at most 0.01%", "Mean 1 to 20". */
function inWords(name: string, min: number | undefined, max: number | undefined): string {
  const [low, high] = [columnValue(name, min), columnValue(name, max)];
  return `${columnTitle(name)} ${min === undefined ? `at most ${high}` : max === undefined ? `at least ${low}` : low === high ? low : `${low} to ${high}`}`;
}

const columnsOf = ({ min, max }: Pick<Filter, "min" | "max">): string[] => [...new Set([...Object.keys(min ?? {}), ...Object.keys(max ?? {})])];
/** The query of the list of clear latents. */
export function clearQuery(run: RunInfo, sae: SaeEntry): Record<string, string> {
  const { min = {}, max = {} } = filtersOf(run, sae).find((filter) => filter.name === CLEAR) ?? {};
  const named = (kind: string, bounds: Record<string, number>) => Object.entries(bounds).map(([name, value]) => [`${kind}_${name}`, `${value}`]);
  return Object.fromEntries([...named("min", min), ...named("max", max)]);
}

/** The columns on which an address sets bounds, whether the SAE has them or not. */
export const boundedColumns = (query: URLSearchParams): string[] => [...query.keys()].filter((key) => /^(min|max)_/.test(key)).map((key) => key.slice(4));

/** The columns that the presets need. */
export const filterColumns = (run: RunInfo, sae: SaeEntry): string[] => [...new Set(filtersOf(run, sae).flatMap(columnsOf))];

/** Bounds are written in the address as min_NAME and max_NAME. */
export function boundsOf(query: URLSearchParams, sae: SaeEntry): Bounds {
  const bounds: Bounds = { min: {}, max: {} };
  for (const [key, text] of query) {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || !sae.columns.includes(key.slice(4))) continue; // boundProblems says so
    if (key.startsWith("min_")) bounds.min[key.slice(4)] = value;
    if (key.startsWith("max_")) bounds.max[key.slice(4)] = value;
  }
  return bounds;
}
/** What is wrong with the bounds of an address: no such column, no number, or a bound that no latent passes. */
export function boundProblems(query: URLSearchParams, sae: SaeEntry, columns: Columns): Problem[] {
  return [...query].flatMap(([key, text]) => {
    const [kind, name] = [key.slice(0, 3), key.slice(4)];
    if (!/^(min|max)_/.test(key)) return [];
    const beginning = `The address has ${key}=${text}`;
    if (!sae.columns.includes(name)) return [{ name: key, text: `${beginning}, and this SAE has no column ${name}. Its columns are ${sae.columns.join(", ")}.` }];
    const values = columns[name]?.filter(Number.isFinite);
    if (!values?.length) return [];
    const [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
    const range = `${columnTitle(name)} goes from ${rounded(low)} to ${rounded(high)} here`;
    if (text.trim() === "" || !Number.isFinite(Number(text))) return [{ name: key, text: `${beginning}, which is not a number. ${range}.` }];
    // The columns are float32: a bound is compared as the server does.
    const bound = Math.fround(Number(text));
    return (kind === "min" ? bound > high : bound < low) ? [{ name: key, text: `${beginning}, which no latent passes: ${range}.` }] : [];
  });
}
/** A bound as it can be written in an address. */
const rounded = (value: number): string => `${Number(value.toPrecision(4))}`;
const without = (names: string[]): Record<string, null> => Object.fromEntries(names.flatMap((name) => [[`min_${name}`, null], [`max_${name}`, null]]));

export function passes(bounds: Bounds, columns: Columns, i: number): boolean {
  for (const [name, low] of Object.entries(bounds.min)) if (!((columns[name]?.[i] ?? NaN) >= low)) return false;
  for (const [name, high] of Object.entries(bounds.max)) if (!((columns[name]?.[i] ?? NaN) <= high)) return false;
  return true;
}

/** How many latents pass a filter. */
function passing(filter: Filter, columns: Columns): number {
  const tests = columnsOf(filter).map((name) => ({ values: columns[name]!, low: filter.min?.[name] ?? -Infinity, high: filter.max?.[name] ?? Infinity }));
  let n = 0;
  for (let i = 0; i < (tests[0]?.values.length ?? 0); i++) n += Number(tests.every(({ values, low, high }) => values[i]! >= low && values[i]! <= high));
  return n;
}

/** The presets with how many latents pass each. One narrows what others leave, but for those of the same column. */
export function Presets({ columns, bounds }: { columns: Columns; bounds: Bounds }) {
  const { run, sae } = useShared();
  // Columns of the SAE that was at hand before stay until the new ones are there.
  const usable = useMemo(() => filtersOf(run, sae).filter((filter) => columnsOf(filter).every((name) => columns[name])), [run, sae, columns]);
  const counts = useMemo(() => usable.map((filter) => passing(filter, columns)), [usable]);
  const on = (filter: Filter) => columnsOf(filter).every((name) => bounds.min[name] === filter.min?.[name] && bounds.max[name] === filter.max?.[name]);
  const inForce = columnsOf(bounds);
  const toggle = (filter: Filter) => {
    const bound = on(filter) ? [] : [...Object.entries(filter.min ?? {}).map(([name, value]) => [`min_${name}`, value]), ...Object.entries(filter.max ?? {}).map(([name, value]) => [`max_${name}`, value])];
    setQuery({ ...without(columnsOf(filter)), ...Object.fromEntries(bound), offset: null });
  };
  return (
    <div class="triage">
      <div class="chips">
        <button type="button" aria-pressed={inForce.length === 0} onClick={() => setQuery({ ...without(inForce), offset: null })}>
          All <span class="count">{count(Object.values(columns)[0]?.length)}</span>
        </button>
      </div>
      {[...new Set(usable.map((filter) => filter.group))].map((group) => (
        <div class="chips" role="group" aria-label={group} key={group}>
          <span class="label">{group}</span>
          {usable.map((filter, i) =>
            filter.group !== group ? null : (
              <button type="button" key={filter.name} aria-pressed={on(filter)} onClick={() => toggle(filter)} {...explain(filter.help)}>
                {filter.name} <span class="count">{count(counts[i])}</span>
              </button>
            ),
          )}
        </div>
      ))}
    </div>
  );
}

/** The bounds in force in words, each with a way to be rid of it. */
export function InForce({ bounds }: { bounds: Bounds }) {
  const names = columnsOf(bounds);
  if (names.length === 0) return null;
  return (
    <ul class="chips in-force" aria-label="Filters in force">
      {names.map((name) => {
        const words = inWords(name, bounds.min[name], bounds.max[name]);
        return (
          <li key={name}>
            <button type="button" aria-label={`${words}: leave this filter out`} onClick={() => setQuery({ ...without([name]), offset: null })}>
              {words} <span aria-hidden="true">×</span>
            </button>
          </li>
        );
      })}
    </ul>
  );
}

type ColumnGroup = "firing" | "label" | "place" | "other";
const COLUMN_GROUPS: [string, ColumnGroup][] = [
  ["How often and how strongly", "firing"],
  ["How well the label holds", "label"],
  ["Where and on what", "place"],
  ["Other latents and outputs", "other"],
];
function groupOf(name: string): ColumnGroup {
  if (name.includes("auroc") || name.startsWith("label_")) return "label";
  if (["n_fired", "firing_rate", "n_windows", "mean", "min", "max"].includes(name)) return "firing";
  return ["first_share", "last_share", "mean_position", "token_entropy", "peak_likeness"].includes(name) ? "place" : "other";
}

/** Lower and upper bound of any column; of a share, in percent. */
export function ExactBounds({ bounds }: { bounds: Bounds }) {
  const { run, sae } = useShared();
  const n = columnsOf(bounds).length;
  const field = (kind: "min" | "max", name: string) => {
    const percent = SHARES.has(name) ? 100 : 1;
    const value = bounds[kind][name];
    const words = kind === "min" ? "at least" : "at most";
    return (
      <NumberField
        step="any"
        aria-label={`${columnTitle(name)}, ${words}${percent > 1 ? ", in %" : ""}`}
        placeholder={`${words}${percent > 1 ? " %" : ""}`}
        value={value === undefined ? null : Number((value * percent).toPrecision(6))}
        onNumber={(number) => setQuery({ [`${kind}_${name}`]: number === null ? null : Number((number / percent).toPrecision(12)), offset: null })}
      />
    );
  };
  return (
    <details class="data">
      <summary>{n ? `Exact bounds (${n} in force)` : "Exact bounds"}</summary>
      {COLUMN_GROUPS.map(([group, belongs]) => {
        const names = sae.columns.filter((name) => groupOf(name) === belongs);
        return names.length === 0 ? null : (
          <fieldset class="bounds" key={group}>
            <legend class="strong">{group}</legend>
            {names.map((name) => (
              <Fragment key={name}>
                <span>
                  <Explained text={columnHelp(name, run.unit)}>{columnTitle(name)}{SHARES.has(name) && ", %"}</Explained>
                </span>
                {field("min", name)}
                {field("max", name)}
              </Fragment>
            ))}
          </fieldset>
        );
      })}
    </details>
  );
}
