/** Two SAEs side by side: latents of one beside their best match in the other, and those without a match. */
import { useEffect } from "preact/hooks";
import { api } from "../api";
import type { Comparison, RunInfo, SaeEntry } from "../api";
import { Bars } from "../charts/bars";
import { count, num, saeOption, saeTitle, share } from "../format";
import { ROW_KEYS, useKeys } from "../keys";
import { AddressProblems, unknownWord, wrongNumber } from "../parts/address";
import type { Problem } from "../parts/address";
import { Await, BeyondTheEnd, Choice, Message, Named, Pager } from "../parts/bits";
import { Term } from "../parts/term";
import { setQuery, to } from "../router";
import { sameSae, useLoad, useSettled, useShared } from "../state";

const LIMIT = 50;
const WAYS = ["cosine", "correlation"] as const;
const VIEWS = ["matched", "only_a", "only_b"] as const;
const THRESHOLD = { min: 0.05, max: 0.99, step: 0.01 };
const key = (sae: { site: string; name: string }) => `${sae.site}/${sae.name}`;

/** How far apart the L0s of two SAEs lie, as the logarithm of their ratio; infinite where one is not known. */
const distanceInL0 = (a: SaeEntry, b: SaeEntry): number =>
  a.target_l0 && b.target_l0 ? Math.abs(Math.log(a.target_l0 / b.target_l0)) : Infinity;

/** The SAE to compare `a` with first: of the same site, trained, with features, of the nearest L0, and then of the lowest FVU. */
function bestPartner(run: RunInfo, a: SaeEntry, others: SaeEntry[]): SaeEntry | undefined {
  const fvu = (sae: SaeEntry) => run.evaluation.find((record) => sameSae(record, sae))?.fvu ?? Infinity;
  // Smaller is better; each number decides only between SAEs whose numbers before it are equal.
  const order = (b: SaeEntry) => [Number(b.d_in !== a.d_in || b.site !== a.site), Number(b.control || b.stopped !== ""), Number(!b.has_features), distanceInL0(a, b), fvu(b)];
  const compare = (x: number[], y: number[]) => {
    const i = x.findIndex((value, n) => value !== y[n]);
    return i < 0 ? 0 : x[i]! < y[i]! ? -1 : 1;
  };
  return [...others].sort((x, y) => compare(order(x), order(y)))[0];
}

/** The two SAEs that the address names; by default the SAE at hand and its best partner. */
function choices(run: RunInfo, at: SaeEntry, query: URLSearchParams): [SaeEntry, SaeEntry] {
  const find = (name: string | null) => run.saes.find((sae) => key(sae) === name);
  const a = find(query.get("a")) ?? at;
  const others = run.saes.filter((sae) => !sameSae(sae, a));
  return [a, find(query.get("b")) ?? bestPartner(run, a, others) ?? a];
}

function problemsOf(run: RunInfo, query: URLSearchParams, a: SaeEntry, b: SaeEntry): Problem[] {
  const saes = ([["a", a], ["b", b]] as const).flatMap(([name, instead]) => {
    const value = query.get(name);
    if (value === null || run.saes.some((sae) => key(sae) === value)) return [];
    return [{ name, text: `The address has ${name}=${value}, and this run has no such SAE. The page shows ${key(instead)}; the lists below have all ${run.saes.length}.` }];
  });
  return [
    ...saes,
    ...unknownWord(query, "by", WAYS, a.d_in === b.d_in ? "cosine" : "correlation"),
    ...unknownWord(query, "view", VIEWS),
    ...wrongNumber(query, "threshold", THRESHOLD.min, THRESHOLD.max, "The page takes the usual threshold."),
  ];
}

export function ComparePage({ query }: { query: URLSearchParams }) {
  const { run, sae } = useShared();
  const [a, b] = choices(run, sae, query);
  const by = WAYS.find((name) => name === query.get("by"));
  const inAddress = Number(query.get("threshold"));
  const picked = inAddress >= THRESHOLD.min && inAddress <= THRESHOLD.max ? inAddress : undefined;
  const threshold = useSettled(picked, 200);
  const view = VIEWS.find((name) => name === query.get("view")) ?? "matched";
  const offset = Number(query.get("offset")) || 0;
  const without = [a, b].filter((entry) => !entry.has_features);
  const impossible = by === "correlation" && without.length > 0;
  const comparison = useLoad(
    run.saes.length < 2 || impossible ? null : (signal) => api.compare({ a: key(a), b: key(b), by, threshold, view, offset, limit: LIMIT }, signal),
    [a, b, by, threshold, view, offset],
  );
  useEffect(() => {
    document.title = "Compare · monosemy";
  }, []);
  useKeys(ROW_KEYS);
  const pick = (side: "a" | "b", sae: SaeEntry) => (
    <label class="field">
      <span>{side === "a" ? "First" : "Second"}</span>
      <select value={key(sae)} onChange={(event) => setQuery({ [side]: event.currentTarget.value, offset: null, by: null }, false)}>
        {run.saes.map((entry) => (
          <option value={key(entry)} key={key(entry)}>
            {entry.site} · {saeOption(entry)}
          </option>
        ))}
      </select>
    </label>
  );
  return (
    <>
      <div class="head">
        <div>
          <h1>Compare two SAEs</h1>
          <p class="lead">Each <Term word="latent" /> beside the one in the other SAE that is most like it: what both found, and what only one did.</p>
        </div>
      </div>
      <div class="stack">
        <AddressProblems problems={problemsOf(run, query, a, b)} />
        <section class="card stack" aria-label="Which SAEs">
          <div class="row end">
            {pick("a", a)}
            <button type="button" class="icon" aria-label="Swap the two" title="Swap the two" onClick={() => setQuery({ a: key(b), b: key(a), offset: null }, false)}>⇄</button>
            {pick("b", b)}
          </div>
          {run.saes.length > 1 && (
            <Choice
              name="Match by"
              value={by ?? comparison.value?.by ?? "cosine"}
              options={[
                { value: "cosine", text: "Decoder cosine" },
                { value: "correlation", text: "Correlation", help: "Of activations over what both were measured on" },
              ]}
              onPick={(next) => setQuery({ by: next, offset: null })}
            />
          )}
          {run.saes.length > 1 && without.length > 0 && <Unbuilt saes={without} needed={impossible} />}
        </section>
        {run.saes.length < 2 && <Message>This run has one SAE, so there is nothing to compare it with.</Message>}
        {!impossible && <Await of={comparison}>{(value) => <Compared comparison={value} a={a} b={b} picked={picked} offset={offset} />}</Await>}
      </div>
    </>
  );
}

/** What features would add to the comparison, and the commands that build them; `needed` where there is none without. */
function Unbuilt({ saes, needed }: { saes: SaeEntry[]; needed: boolean }) {
  const stopped = saes.find((sae) => sae.stopped);
  if (stopped) return <Message>No features are made of {saeTitle(stopped)}, since its training stopped early; only directions can be compared.</Message>;
  const names = saes.map(saeTitle).join(" and ");
  return (
    <Message>
      {needed ? `Correlation needs to know when latents fire, and no features are built for ${names}. ` : `No features are built for ${names}, so directions are compared, and labels are missing. `}
      Build them in a terminal, then load this page again:{" "}
      {saes.map((sae, i) => (
        <>{i > 0 && " and "}<code>{sae.build_command}</code></>
      ))}
    </Message>
  );
}

function Compared({ comparison, a, b, picked, offset }: { comparison: Comparison; a: SaeEntry; b: SaeEntry; picked?: number; offset: number }) {
  const part = (n: number, of: number) => `${count(n)} of ${count(of)} (${share(n / of)})`;
  const views = [
    { value: "matched" as const, text: `Matched (${count(comparison.n_matched_a)})` },
    { value: "only_a" as const, text: `Only in the first (${count(a.d_sae - comparison.n_matched_a)})` },
    { value: "only_b" as const, text: `Only in the second (${count(b.d_sae - comparison.n_matched_b)})` },
  ];
  const { distribution: d } = comparison;
  const unit = comparison.by === "cosine" ? "decoder cosine" : "correlation";
  return (
    <div class="usage">
      <section class="card stack" aria-labelledby="match">
        <h2 id="match">How alike they are</h2>
        <p class="small muted">
          {comparison.by === "cosine" ? <><Term word="decoder cosine">Decoder cosines</Term> compare directions; a common 0.3 says little.</> : "Correlations compare on which tokens two latents fire, whatever their directions."}
        </p>
        <label class="field">
          <span>
            Counts as a match from {unit} <b>{num(picked ?? comparison.threshold, 2)}</b>
          </span>
          <input
            type="range"
            {...THRESHOLD}
            value={picked ?? comparison.threshold}
            onInput={(event) => setQuery({ threshold: event.currentTarget.value, offset: null })}
          />
        </label>
        <dl class="facts">
          <div>
            <dt>First, matched</dt>
            <dd>{part(comparison.n_matched_a, a.d_sae)}</dd>
          </div>
          <div>
            <dt>Second, matched</dt>
            <dd>{part(comparison.n_matched_b, b.d_sae)}</dd>
          </div>
          <div>
            <dt>Each other's best</dt>
            <dd>{count(comparison.n_mutual)} pairs</dd>
          </div>
        </dl>
        <Bars
          title="Best match of every latent"
          xName={unit}
          yName="Latents: first (bars), second (line)"
          name="First"
          edges={d.edges}
          counts={d.a}
          other={{ name: "Second", counts: d.b }}
          line={{ at: picked ?? comparison.threshold, name: "match" }}
        />
      </section>
      <section class="card stack" aria-label="Latents">
        <Choice name="Which latents" value={comparison.view} options={views} onPick={(view) => setQuery({ view: view === "matched" ? null : view, offset: null })} />
        {comparison.total > 0 && !comparison.rows.length ? <BeyondTheEnd total={comparison.total} offset={offset} /> : <Pairs comparison={comparison} a={a} b={b} />}
        <Pager total={comparison.total} offset={offset} limit={LIMIT} onMove={(next) => setQuery({ offset: next || null })} />
      </section>
    </div>
  );
}

function Pairs({ comparison, a, b }: { comparison: Comparison; a: SaeEntry; b: SaeEntry }) {
  if (!comparison.rows.length) return <p class="empty">None at this threshold.</p>;
  const cell = (sae: SaeEntry, latent: number, label: string) => (
    <td class="half">
      <a data-row href={to.latent(sae.site, sae.name, latent)}>
        <Named latent={latent} label={label} />
      </a>
    </td>
  );
  const swapped = comparison.view === "only_b";
  return (
    <div class="scroll">
      <table>
        <thead>
          <tr>
            <th scope="col">{swapped ? "Second" : "First"}</th>
            <th scope="col">{comparison.view === "matched" ? "Best match in the second" : `Nearest in the ${swapped ? "first" : "second"}`}</th>
            {comparison.available.cosine && <th scope="col" class="n"><Term word="decoder cosine">Cosine</Term></th>}
            {comparison.available.correlation && <th scope="col" class="n"><Term word="correlation">Correlation</Term></th>}
            <th scope="col" class="n"><Term word="firing rate">Fires on</Term></th>
          </tr>
        </thead>
        <tbody>
          {comparison.rows.map((row) => (
            <tr key={`${row.a}-${row.b}`}>
              {swapped ? cell(b, row.b, row.label_b) : cell(a, row.a, row.label_a)}
              {swapped ? cell(a, row.a, row.label_a) : cell(b, row.b, row.label_b)}
              {comparison.available.cosine && <td class="n">{num(row.cosine, 2)}</td>}
              {comparison.available.correlation && <td class="n">{num(row.correlation, 2)}</td>}
              <td class="n">
                {share(swapped ? row.firing_rate_b : row.firing_rate_a)} · {share(swapped ? row.firing_rate_a : row.firing_rate_b)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
