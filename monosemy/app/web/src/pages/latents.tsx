/** All latents of one SAE: usage scatter with a brush, triage, and the list that both narrow. */
import { useEffect, useMemo } from "preact/hooks";
import { api } from "../api";
import type { SaeEntry } from "../api";
import { Usage, slopesOf } from "../charts/usage";
import type { Box } from "../charts/usage";
import { columnHelp, columnTitle, columnValue, count, num, saeTitle, signed } from "../format";
import { architecture } from "../looks";
import { ROW_KEYS, useKeys } from "../keys";
import { AddressProblems, unknownWord } from "../parts/address";
import { Await, BeyondTheEnd, Message, Pager, SortHead } from "../parts/bits";
import { ExactBounds, InForce, Presets, boundProblems, boundedColumns, boundsOf, filterColumns, passes } from "../parts/filters";
import type { Bounds } from "../parts/filters";
import { Term } from "../parts/term";
import { go, setQuery, to } from "../router";
import { useLoad, useSettled, useShared } from "../state";

const LIMIT = 50;
const TABLE_COLUMNS = ["firing_rate", "mean", "max", "top_cosine", "label_auroc"];
/** Whether labels have scores, by which the clear ones come first. */
const isRanked = (sae: SaeEntry): boolean => sae.has_features && sae.columns.includes("label_auroc_low");
/** What the list can be sorted by; the first holds where the address names none. */
const sortsOf = (sae: SaeEntry): string[] => [...new Set([...(isRanked(sae) ? ["clear"] : []), "firing_rate", "latent", ...sae.columns])];

export function LatentsPage({ query }: { query: URLSearchParams }) {
  const { run, sae } = useShared();
  const bounded = boundedColumns(query).join(" ");
  const names = useMemo(
    () => [...new Set(["mean", "firing_rate", ...filterColumns(run, sae), ...bounded.split(" ")])].filter((name) => sae.columns.includes(name)),
    [run, sae, bounded],
  );
  const columns = useLoad(sae.column_source === "none" ? null : (signal) => api.columns(sae.site, sae.name, names, signal), [sae, names]);
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
            {count(sae.d_sae)} <Term word="latent">latents</Term> of{" "}
            {sae.control ? <>a <Term word="control" /> whose directions are random and were not trained</> : sae.source_site ? <>the {architecture(sae.architecture)} <Term word="transcoder" /></> : <>the {architecture(sae.architecture)} <Term word="SAE">autoencoder</Term></>}
            {run.unit !== "rows" && (sae.source_site ? ` from ${sae.source_site}, where they fire, to ${sae.site}` : <> at the <Term word="site" /> {sae.site}</>)}
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
  const bounds = useMemo(() => boundsOf(query, sae), [address, sae]);
  const problems = useMemo(
    () => [...boundProblems(query, sae, columns), ...unknownWord(query, "sort", sortsOf(sae)), ...unknownWord(query, "order", ["desc", "asc"])],
    [address, sae, columns],
  );
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
      <AddressProblems problems={problems} />
      <Presets columns={columns} bounds={bounds} />
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

function List({ bounds, query }: { bounds: Bounds; query: URLSearchParams }) {
  const { run, sae } = useShared();
  const q = query.get("q") ?? "";
  const settled = useSettled(q, 120);
  const ranked = isRanked(sae);
  const sorts = sortsOf(sae);
  const sort = sorts.find((name) => name === query.get("sort")) ?? sorts[0]!;
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
      <InForce bounds={bounds} />
      <ExactBounds bounds={bounds} />
      <Await of={list}>
        {(page) =>
          page.total === 0 ? (
            <p class="empty">No latent passes these filters.</p>
          ) : page.rows.length === 0 ? (
            <BeyondTheEnd total={page.total} offset={offset} />
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
