/** All latents of one SAE: usage scatter with a brush, triage, and the list that both narrow. */
import { useEffect, useMemo } from "preact/hooks";
import { api } from "../api";
import { Usage, slopesOf } from "../charts/usage";
import type { Box } from "../charts/usage";
import { SHARES, columnHelp, columnTitle, columnValue, count, num, saeTitle, signed } from "../format";
import { architecture } from "../looks";
import { ROW_KEYS, useKeys } from "../keys";
import { Await, Message, Pager, SortHead } from "../parts/bits";
import { Term } from "../parts/term";
import { go, setQuery, to } from "../router";
import { useLoad, useSettled, useShared } from "../state";

const LIMIT = 50;
const TABLE_COLUMNS = ["firing_rate", "mean", "max", "top_cosine", "label_auroc"];

interface Bounds {
  min: Record<string, number>;
  max: Record<string, number>;
}
interface Triage {
  group: string;
  name: string;
  help: string;
  needs: string;
  min?: number;
  max?: number;
}
/** In groups, in the order in which one asks: is the label any good, how often does it fire, on what, is it unlike others? */
const TRIAGE: Triage[] = [
  { group: "Label", name: "Label holds", help: "Even the lower end of the label score's interval is at least 0.8", needs: "label_auroc_low", min: 0.8 },
  { group: "Label", name: "Label fits", help: "The label tells where it fires with AUROC of at least 0.95", needs: "label_auroc", min: 0.95 },
  { group: "Label", name: "Label fails", help: "The label tells where it fires with AUROC below 0.7", needs: "label_auroc", max: 0.7 },
  { group: "How often", name: "Dead", help: "Never fired on what the features were built from", needs: "firing_rate", max: 0 },
  { group: "How often", name: "Over-active", help: "Firing rate of at least 10%", needs: "firing_rate", min: 0.1 },
  { group: "On what", name: "One token", help: "Almost always the same token: entropy below 0.5 bits", needs: "token_entropy", max: 0.5 },
  { group: "On what", name: "First token", help: "At least half of their firing falls on the first token of a document", needs: "first_share", min: 0.5 },
  { group: "Like others", name: "Near copies", help: "Decoder cosine of at least 0.9 with another latent", needs: "top_cosine", min: 0.9 },
];

/** Bounds are written in the address as min_NAME and max_NAME. */
function boundsOf(query: URLSearchParams): Bounds {
  const bounds: Bounds = { min: {}, max: {} };
  for (const [key, text] of query) {
    const value = Number(text);
    if (!Number.isFinite(value)) continue;
    if (key.startsWith("min_")) bounds.min[key.slice(4)] = value;
    if (key.startsWith("max_")) bounds.max[key.slice(4)] = value;
  }
  return bounds;
}

function passes(bounds: Bounds, columns: Record<string, Float32Array>, i: number): boolean {
  for (const [name, low] of Object.entries(bounds.min)) if (!((columns[name]?.[i] ?? NaN) >= low)) return false;
  for (const [name, high] of Object.entries(bounds.max)) if (!((columns[name]?.[i] ?? NaN) <= high)) return false;
  return true;
}

export function LatentsPage({ query }: { query: URLSearchParams }) {
  const { run, sae } = useShared();
  const names = useMemo(
    () => [...new Set(["mean", "firing_rate", ...TRIAGE.map((filter) => filter.needs)])].filter((name) => sae.columns.includes(name)),
    [sae],
  );
  const columns = useLoad(sae.column_source === "none" ? null : (signal) => api.columns(sae.site, sae.name, names, signal), [sae]);
  useEffect(() => {
    document.title = `Latents of ${sae.name} · monosemy`;
  }, [sae]);
  useKeys(ROW_KEYS);
  return (
    <>
      <div class="head">
        <div>
          <h1>Latents of {saeTitle(sae)}</h1>
          <p class="lead">
            {count(sae.d_sae)} {sae.control ? "latents of a control whose directions are random and were not trained" : sae.source_site ? `latents of the ${architecture(sae.architecture)}` : `latents of the ${architecture(sae.architecture)} autoencoder`}
            {run.unit !== "rows" && (sae.source_site ? ` from ${sae.source_site}, where they fire, to ${sae.site}` : ` at ${sae.site}`)}
            {sae.n_tokens !== null && `, seen on ${count(sae.n_tokens)} ${run.unit}`}.
          </p>
        </div>
      </div>
      <div class="stack">
        {!sae.has_features && (
          <Message>
            {sae.stopped ? (
              <>The training of this SAE stopped early, so nothing is made of it: {sae.stopped}</>
            ) : (
              <>
                No features are built for this SAE: its latents have statistics but no contexts or labels. Build them with{" "}
                <code>{sae.build_command}</code>
              </>
            )}
          </Message>
        )}
        {sae.column_source === "none" ? null : (
          <Await of={columns}>{(values) => <Usable columns={values} query={query} />}</Await>
        )}
      </div>
    </>
  );
}

function Usable({ columns, query }: { columns: Record<string, Float32Array>; query: URLSearchParams }) {
  const { sae } = useShared();
  const address = query.toString();
  const bounds = useMemo(() => boundsOf(query), [address]);
  const inside = useMemo(() => (i: number) => passes(bounds, columns, i), [bounds, columns]);
  const box: Box | null = useMemo(() => {
    const { min, max } = bounds;
    if ([min.mean, max.mean, min.firing_rate, max.firing_rate].some((bound) => bound === undefined)) return null;
    return { x: [min.firing_rate ?? 0, max.firing_rate ?? 0], y: [min.mean ?? 0, max.mean ?? 0] };
  }, [bounds]);
  const setBox = (next: Box | null) =>
    setQuery({
      min_mean: next?.y[0] ?? null,
      max_mean: next?.y[1] ?? null,
      min_firing_rate: next?.x[0] ?? null,
      max_firing_rate: next?.x[1] ?? null,
      offset: null,
    });
  const { mean, firing_rate: rate } = columns;
  const slopes = useMemo(() => (rate && mean ? slopesOf(rate, mean) : null), [rate, mean]);
  return (
    <>
      <TriageRow columns={columns} bounds={bounds} />
      <div class="usage">
        {mean && rate && (
          <section class="card" aria-labelledby="usage">
            <header>
              <h2 id="usage">Usage</h2>
              <button type="button" class="quiet" disabled={!box} onClick={() => setBox(null)}>
                Clear range
              </button>
            </header>
            <Usage rate={rate} mean={mean} box={box} inside={inside} onBox={setBox} onOpen={(latent) => go(to.latent(sae.site, sae.name, latent))} />
            {slopes && (
              <p class="small" id="slopes">
                Least squares on the logarithms, both ways: activation on frequency has slope <b>{signed(slopes.forth)}</b>, frequency on activation has slope{" "}
                <b>{signed(slopes.back)}</b> (R² {num(slopes.r2)}, {count(slopes.n)} latents that fire). They describe one line only where R² is near 1.
              </p>
            )}
            <p class="small muted">Drag over the dots to choose a range; the list beside shows what is in it.</p>
          </section>
        )}
        <List bounds={bounds} query={query} />
      </div>
    </>
  );
}

function TriageRow({ columns, bounds }: { columns: Record<string, Float32Array>; bounds: Bounds }) {
  const usable = TRIAGE.filter((filter) => columns[filter.needs]);
  const counts = useMemo(
    () =>
      usable.map((filter) => {
        const only: Bounds = { min: {}, max: {} };
        if (filter.min !== undefined) only.min[filter.needs] = filter.min;
        if (filter.max !== undefined) only.max[filter.needs] = filter.max;
        let n = 0;
        for (let i = 0; i < (columns[filter.needs]?.length ?? 0); i++) n += Number(passes(only, columns, i));
        return n;
      }),
    [columns],
  );
  const on = (filter: Triage) => bounds.min[filter.needs] === filter.min && bounds.max[filter.needs] === filter.max;
  const none = Object.keys(bounds.min).length + Object.keys(bounds.max).length === 0;
  const clear = Object.fromEntries([...Object.keys(bounds.min).map((k) => [`min_${k}`, null]), ...Object.keys(bounds.max).map((k) => [`max_${k}`, null])]);
  const chip = (filter: Triage) => (
    <button
      type="button"
      key={filter.name}
      title={filter.help}
      aria-pressed={on(filter)}
      onClick={() => setQuery({ ...clear, ...(on(filter) ? {} : { [`min_${filter.needs}`]: filter.min ?? null, [`max_${filter.needs}`]: filter.max ?? null }), offset: null })}
    >
      {filter.name} <span class="count">{count(counts[usable.indexOf(filter)])}</span>
    </button>
  );
  return (
    <div class="triage">
      <div class="chips">
        <button type="button" aria-pressed={none} onClick={() => setQuery({ ...clear, offset: null })}>
          All <span class="count">{count(Object.values(columns)[0]?.length)}</span>
        </button>
      </div>
      {[...new Set(usable.map((filter) => filter.group))].map((group) => (
        <div class="chips" role="group" aria-label={group} key={group}>
          <span class="label">{group}</span>
          {usable.filter((filter) => filter.group === group).map(chip)}
        </div>
      ))}
    </div>
  );
}

function List({ bounds, query }: { bounds: Bounds; query: URLSearchParams }) {
  const { run, sae } = useShared();
  const q = query.get("q") ?? "";
  const settled = useSettled(q, 120);
  const ranked = sae.has_features && sae.columns.includes("label_auroc_low");
  const sort = query.get("sort") ?? (ranked ? "clear" : "firing_rate");
  const order = query.get("order") === "asc" ? "asc" : "desc";
  const offset = Number(query.get("offset") ?? 0) || 0;
  const list = useLoad(
    (signal) => api.latents(sae.site, sae.name, { sort, order, ...bounds, q: settled, offset, limit: LIMIT }, signal),
    [sae, sort, order, bounds, settled, offset],
  );
  const tableColumns = TABLE_COLUMNS.filter((name) => sae.columns.includes(name));
  const onSort = (name: string, next: string) => setQuery({ sort: name, order: next, offset: null });
  return (
    <section class="card" aria-labelledby="list">
      <header>
        <h2 id="list" aria-live="polite">
          {list.value ? `${count(list.value.total)} ${list.value.total === 1 ? "latent" : "latents"}` : "Latents"}
        </h2>
        {sae.has_features && (
          <input
            type="search"
            data-search
            aria-label="Words in the label"
            placeholder="Words in the label  /"
            value={q}
            onInput={(event) => setQuery({ q: event.currentTarget.value, offset: null })}
          />
        )}
      </header>
      {ranked && (
        <p class="small muted">
          {sort === "clear" ? (
            <>Those whose <Term word="label score">label</Term> holds best come first; a column's heading sorts by it.</>
          ) : (
            <button type="button" class="quiet" onClick={() => setQuery({ sort: null, order: null, offset: null })}>Clear ones first</button>
          )}
        </p>
      )}
      <BoundFields bounds={bounds} />
      <Await of={list}>
        {(page) =>
          page.total === 0 ? (
            <p class="empty">No latent passes these filters.</p>
          ) : (
            <>
              <div class="scroll">
                <table>
                  <thead>
                    <tr>
                      <SortHead name="latent" sort={sort} order={order} help={columnHelp("latent")} wide onSort={onSort} />
                      {sae.has_features && <th scope="col">Label</th>}
                      {tableColumns.map((name) => (
                        <SortHead key={name} name={name} sort={sort} order={order} help={columnHelp(name, run.unit)} onSort={onSort} />
                      ))}
                    </tr>
                  </thead>
                  <tbody>
                    {page.rows.map((row) => (
                      <tr key={row.latent}>
                        <td>
                          <a data-row={sae.has_features ? undefined : true} href={to.latent(sae.site, sae.name, row.latent)}>
                            {row.latent}
                          </a>
                        </td>
                        {sae.has_features && (
                          <td class="w">
                            <a data-row class="plain" href={to.latent(sae.site, sae.name, row.latent)}>
                              {row.label || "no label"}
                            </a>
                          </td>
                        )}
                        {tableColumns.map((name) => (
                          <td class="n" key={name}>
                            {columnValue(name, row.values[page.columns.indexOf(name)])}
                          </td>
                        ))}
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
              <details class="data">
                <summary>What the columns mean</summary>
                <dl class="meanings">
                  {tableColumns.map((name) => (
                    <>
                      <dt>{columnTitle(name)}</dt>
                      <dd>{columnHelp(name, run.unit)}</dd>
                    </>
                  ))}
                </dl>
              </details>
              <Pager total={page.total} offset={offset} limit={LIMIT} onMove={(next) => setQuery({ offset: next || null })} />
            </>
          )
        }
      </Await>
    </section>
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
  return ["first_share", "last_share", "mean_position", "token_entropy"].includes(name) ? "place" : "other";
}

/** Lower and upper bound of any column. */
function BoundFields({ bounds }: { bounds: Bounds }) {
  const { run, sae } = useShared();
  const n = new Set([...Object.keys(bounds.min), ...Object.keys(bounds.max)]).size;
  const field = (kind: "min" | "max", name: string) => (
    <input
      type="number"
      step="any"
      aria-label={`${columnTitle(name)}, ${kind === "min" ? "at least" : "at most"}`}
      placeholder={kind === "min" ? "at least" : "at most"}
      value={bounds[kind][name] ?? ""}
      onChange={(event) => setQuery({ [`${kind}_${name}`]: event.currentTarget.value, offset: null })}
    />
  );
  return (
    <details class="data">
      <summary>{n ? `Filters (${n} in force)` : "Filters"}</summary>
      {COLUMN_GROUPS.map(([group, belongs]) => {
        const names = sae.columns.filter((name) => groupOf(name) === belongs);
        return names.length === 0 ? null : (
          <fieldset class="bounds" key={group}>
            <legend class="strong">{group}</legend>
            {names.map((name) => (
              <>
                <span title={columnHelp(name, run.unit)}>
                  {columnTitle(name)}
                  {SHARES.has(name) && bounds.min[name] !== undefined && <span class="muted"> ≥ {num((bounds.min[name] ?? 0) * 100)}%</span>}
                </span>
                {field("min", name)}
                {field("max", name)}
              </>
            ))}
          </fieldset>
        );
      })}
    </details>
  );
}
