/** The run at a glance: error against sparsity, and every SAE with its numbers. */
import { useEffect } from "preact/hooks";
import type { EvaluationRecord, SaeEntry } from "../api";
import { Frontier } from "../charts/frontier";
import { count, interval, num, saeTitle, share } from "../format";
import { ROW_KEYS, useKeys } from "../keys";
import { Choice, Message } from "../parts/bits";
import { Found } from "../parts/highlights";
import { Term, explain } from "../parts/term";
import { setQuery, to, useRoute } from "../router";
import { sameSae, useShared } from "../state";

const COLUMNS = ["l0", "fvu", "delta_loss", "loss_recovered", "kl", "dead_fraction", "over_10pct_fraction"] as const;
type Column = (typeof COLUMNS)[number];
const TITLES: Record<Column, [string, string]> = {
  l0: ["L0", "Active latents per token"],
  fvu: ["FVU", "Fraction of variance unexplained by the reconstruction"],
  delta_loss: ["Δ loss", "Rise of the model's loss with the reconstruction spliced in, nats per token"],
  loss_recovered: ["Loss recovered", "1 is the clean model, 0 the activation replaced by zero"],
  kl: ["KL", "From the clean model's predictions, nats per token"],
  dead_fraction: ["Dead", "Latents that never fired on the validation text"],
  over_10pct_fraction: ["Over-active", "Latents that fire on more than 10% of tokens"],
};
/** Measures that need no language model, with their help where the SAEs read rows of the user's own. */
const ROW_HELP: Partial<Record<Column, string>> = {
  l0: "Active latents per row",
  fvu: TITLES.fvu[1],
  dead_fraction: "Latents that never fired on the validation rows",
  over_10pct_fraction: "Latents that fire on more than 10% of rows",
};
const SHARES = new Set<Column>(["dead_fraction", "over_10pct_fraction"]);

export function OverviewPage() {
  const { run, model, sae } = useShared();
  const { query } = useRoute();
  const sites = [...new Set([...run.saes, ...run.evaluation].map((entry) => entry.site))];
  const site = sites.find((name) => name === query.get("site")) ?? sites[0] ?? "";
  const records = run.evaluation.filter((record) => record.site === site);
  const entry = (record: EvaluationRecord) => run.saes.find((sae) => sae.site === record.site && sae.name === record.name);
  const href = (record: EvaluationRecord) => {
    const sae = entry(record);
    return sae ? to.latents(sae.site, sae.name) : null;
  };
  useEffect(() => {
    document.title = `${run.name} · monosemy`;
  }, [run]);
  useKeys(ROW_KEYS);
  const ready = run.saes.filter((sae) => sae.has_features);
  const featured = ready.find((entry) => sameSae(entry, sae)) ?? ready.find((entry) => !entry.control);
  const controls = run.saes.filter((sae) => sae.control).length;
  return (
    <>
      <div class="head">
        <div>
          <h1>{run.name}</h1>
          <p class="lead">
            <Dictionaries saes={run.saes} />
            {controls > 0 && <> and {controls} <Term word="control">{controls === 1 ? "control" : "controls"}</Term></>} of {model.name}
            {run.unit === "rows" ? ` (${count(run.n_rows)} rows)` : sites.length === 1 ? <> at the <Term word="site" /> {site}</> : <> at {sites.length} <Term word="site">sites</Term></>},{" "}
            {count(run.saes[0]?.d_sae)} <Term word="latent">latents</Term> each
            {run.clean_loss !== null && `; the clean model's loss is ${num(run.clean_loss)} nats per token`}.
          </p>
        </div>
        <div class="row">
          {sites.length > 1 && (
            <label class="field">
              <span>Site</span>
              <select value={site} onChange={(event) => setQuery({ site: event.currentTarget.value })}>
                {sites.map((name) => (
                  <option key={name}>{name}</option>
                ))}
              </select>
            </label>
          )}
          {run.has_report && (
            <a class="button" href="/report" target="_blank">
              Full report
            </a>
          )}
        </div>
      </div>
      <div class="stack">
        {ready.length === 0 && (
          <Message>
            No features are built for this run, so latents have statistics but no {run.unit === "rows" ? "rows" : "contexts"}, labels or search. Build them with{" "}
            <code>{run.build_command}</code>
          </Message>
        )}
        {featured && <Found sae={featured} key={`${featured.site}/${featured.name}`} />}
        {ready.length > 1 && (
          <section class="card" aria-labelledby="ready">
            <header>
              <h2 id="ready">Ready to browse</h2>
              <span class="sub">{run.unit === "rows" ? "SAEs whose latents have their strongest rows" : "SAEs whose latents have contexts and labels"}</span>
            </header>
            <div class="chips">
              {ready.map((sae) => (
                <a class="button" key={`${sae.site}/${sae.name}`} href={to.latents(sae.site, sae.name)}>
                  {saeTitle(sae)}
                  <span class="muted">{sites.length > 1 ? sae.site : `${count(sae.n_tokens)} ${run.unit}`}</span>
                </a>
              ))}
            </div>
          </section>
        )}
        {records.length > 0 && (
          <div class={run.unit === "rows" ? undefined : "two"}>
            {run.unit !== "rows" && <section class="card">
              <h2>What it costs the model</h2>
              <p class="small muted"><Term word="delta loss" /> against <Term word="L0" />: lower and further left is better</p>
              <Frontier title="Rise of the model's loss against sparsity" measure="delta_loss" yName="Δ loss, nats per token, log scale" records={records} href={href} />
            </section>}
            <section class="card">
              <h2>What it leaves unexplained</h2>
              <p class="small muted"><Term word="FVU" /> against <Term word="L0" />: lower and further left is better</p>
              <Frontier title="Unexplained variance against sparsity" measure="fvu" yName="Fraction of variance unexplained, log scale" records={records} href={href} />
            </section>
          </div>
        )}
        <SaeTable records={records} saes={run.saes.filter((sae) => sae.site === site)} />
      </div>
    </>
  );
}

/** "8 transcoders and 2 sparse autoencoders", without controls. */
function Dictionaries({ saes }: { saes: SaeEntry[] }) {
  const trained = saes.filter((sae) => !sae.control);
  const transcoders = trained.filter((sae) => sae.source_site).length;
  const autoencoders = trained.length - transcoders;
  return (
    <>
      {transcoders > 0 && <>{transcoders} <Term word="transcoder">{transcoders === 1 ? "transcoder" : "transcoders"}</Term></>}
      {transcoders > 0 && autoencoders > 0 && " and "}
      {(autoencoders > 0 || transcoders === 0) && <>{autoencoders} <Term word="SAE">{autoencoders === 1 ? "sparse autoencoder" : "sparse autoencoders"}</Term></>}
    </>
  );
}

function SaeTable({ records, saes }: { records: EvaluationRecord[]; saes: SaeEntry[] }) {
  const { run } = useShared();
  const { query } = useRoute();
  const columns = COLUMNS.filter((name) => run.unit !== "rows" || name in ROW_HELP);
  const sort = query.get("sort") ?? "";
  const order = query.get("order") ?? "asc";
  const controls = query.get("controls") === "without" ? "without" : "with";
  const key = (record: EvaluationRecord) => (record[sort as Column] as number | null) ?? Infinity;
  const rows = records.filter((record) => controls === "with" || !record.control);
  // Controls stay below the SAEs in every order.
  if (sort) rows.sort((a, b) => Number(a.control) - Number(b.control) || (key(a) - key(b)) * (order === "desc" ? -1 : 1));
  const unevaluated = saes.filter((sae) => !records.some((record) => record.name === sae.name));
  const first = records[0];
  const lossTokens = Math.max(0, ...records.map((record) => (record.n_loss_tokens as number | undefined) ?? 0));
  return (
    <section class="card" aria-labelledby="saes">
      <header>
        <h2 id="saes">SAEs</h2>
        <Choice name="Controls" value={controls} options={[{ value: "with", text: "With controls" }, { value: "without", text: "Without" }]} onPick={(next) => setQuery({ controls: next === "with" ? null : next })} />
      </header>
      <div class="scroll" tabIndex={0} role="region" aria-label="SAEs, table">
        <table>
          <thead>
            <tr>
              <th scope="col">SAE</th>
              {columns.map((name) => (
                <th scope="col" class="n" key={name} aria-sort={sort === name ? (order === "desc" ? "descending" : "ascending") : undefined}>
                  <button type="button" {...explain((run.unit === "rows" && ROW_HELP[name]) || TITLES[name][1])} onClick={() => setQuery({ sort: name, order: sort === name && order === "asc" ? "desc" : null })}>
                    {TITLES[name][0]}
                    <span class="arrow" aria-hidden="true">{sort === name ? (order === "desc" ? "↓" : "↑") : ""}</span>
                  </button>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((record) => {
              const sae = saes.find((entry) => entry.name === record.name);
              return (
                <tr key={record.name} class={record.control ? "off" : undefined}>
                  <td class="nowrap">
                    {sae ? (
                      <a data-row href={to.latents(sae.site, sae.name)}>
                        {record.name}
                      </a>
                    ) : (
                      record.name
                    )}{" "}
                    {record.control ? <span class="tag">control</span> : sae?.has_features && <span class="tag">features</span>}{" "}
                    {sae?.imported && <span class="tag">imported</span>}
                  </td>
                  {columns.map((name) => (
                    <td class="n" key={name}>
                      {SHARES.has(name) ? share(record[name] as number | null) : num(record[name] as number | null)}
                      {record[`${name}_interval`] ? <span class="ends">{interval(record[`${name}_interval`] as [number, number], SHARES.has(name) ? share : num)}</span> : null}
                    </td>
                  ))}
                </tr>
              );
            })}
            {unevaluated.map((sae) => (
              <tr key={sae.name}>
                <td class="nowrap">
                  <a data-row href={to.latents(sae.site, sae.name)}>
                    {sae.name}
                  </a>{" "}
                  {sae.control && <span class="tag">control</span>} {sae.imported && <span class="tag">imported</span>}
                </td>
                <td colSpan={columns.length} class="muted">
                  {sae.stopped ? `training stopped early: ${sae.stopped}` : "not evaluated"}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {saes.flatMap((sae) =>
        sae.warnings.map((warning) => (
          <p class="small" key={`${sae.name}: ${warning}`}>
            <strong>{sae.name}</strong>: {warning}.
          </p>
        )),
      )}
      <details class="data">
        <summary>What the columns mean</summary>
        <dl class="meanings">
          {columns.map((name) => (
            <>
              <dt>{TITLES[name][0]}</dt>
              <dd>{(run.unit === "rows" && ROW_HELP[name]) || TITLES[name][1]}</dd>
            </>
          ))}
        </dl>
      </details>
      {first && (
        <p class="small muted">
          {run.unit === "rows"
            ? `Measured on ${count(first.n_tokens)} validation rows${first.n_documents === first.n_tokens ? "" : ` in ${count(first.n_documents)} groups`}; in brackets 95% intervals over ${first.n_documents === first.n_tokens ? "rows" : "groups of rows"}.`
            : `Measured on ${count(first.n_tokens)} validation tokens from ${count(first.n_documents)} documents${lossTokens ? `, what the model loses on ${count(lossTokens)} of them` : ""}; in brackets 95% intervals over documents.`}
        </p>
      )}
    </section>
  );
}
