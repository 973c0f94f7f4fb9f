/** One latent: what it is called and how well that holds, where it fires, what it does, what is near it. */
import { useEffect, useState } from "preact/hooks";
import { api } from "../api";
import type { LatentPage, SaeEntry } from "../api";
import { Bars } from "../charts/bars";
import { columnHelp, columnTitle, columnValue, count, num, saeTitle, share } from "../format";
import { useKeys } from "../keys";
import { Await, DataTable, Message, Named } from "../parts/bits";
import { Contexts, useContextView } from "../parts/contexts";
import { Explanation } from "../parts/explanation";
import { NoteBox, useBookmark } from "../parts/note";
import { OwnText } from "../parts/own-text";
import { Explained, Term } from "../parts/term";
import type { Word } from "../parts/term";
import { Token } from "../parts/token";
import { quoted } from "../parts/tokens";
import { go, to } from "../router";
import { useLoad, useShared } from "../state";

export function LatentPageView({ latent, query }: { latent: number; query: URLSearchParams }) {
  const { run, sae } = useShared();
  const ofRows = run.unit === "rows";
  const view = useContextView(query);
  const window = view.length === "whole" ? 0 : view.length === "passage" ? 24 : 32;
  const page = useLoad(
    sae.has_features ? (signal) => api.latent(sae.site, sae.name, latent, window, signal) : null,
    [sae, latent, window],
  );
  const step = (by: number) => go(to.latent(sae.site, sae.name, (latent + by + sae.d_sae) % sae.d_sae, location.search));
  const bookmark = useBookmark(sae, latent);
  useKeys({
    j: () => step(1),
    k: () => step(-1),
    ArrowRight: () => step(1),
    ArrowLeft: () => step(-1),
    b: bookmark.toggle,
    c: view.nextLength,
    w: view.toggleSpaces,
  });
  const label = page.value?.latent === latent ? heading(page.value) : "";
  useEffect(() => {
    document.title = `${latent}${label ? ` ${label}` : ""} · monosemy`;
  }, [latent, label]);
  return (
    <>
      <div class="head">
        <div>
          <p class="small muted">
            Latent {latent} of {count(sae.d_sae)} · <a href={to.latents(sae.site, sae.name)}>{saeTitle(sae)}</a>{!ofRows && ` · ${sae.source_site ? `${sae.source_site} → ` : ""}${sae.site}`}
          </p>
          <h1 class="latent-label">{label || `Latent ${latent}`}</h1>
          {page.value && page.value.latent === latent && <Backing page={page.value} />}
        </div>
        <div class="row">
          <button type="button" class="icon" aria-label="Previous latent" title="Previous latent (k)" onClick={() => step(-1)}>←</button>
          <button type="button" class="icon" aria-label="Next latent" title="Next latent (j)" onClick={() => step(1)}>→</button>
          <button type="button" aria-pressed={bookmark.on} title="Bookmark (b)" onClick={bookmark.toggle}>
            {bookmark.on ? "★ Bookmarked" : "☆ Bookmark"}
          </button>
          {!ofRows && !sae.source_site && <a class="button" href={to.steer(sae.site, sae.name, { e: `${latent}:set:1.5:max` })}>Steer</a>}
        </div>
      </div>
      {bookmark.error && <Message bad>{bookmark.error}</Message>}
      {sae.has_features ? (
        <Await of={page}>{(value) => <Body page={value} view={view} sae={sae} />}</Await>
      ) : (
        <div class="stack">
          <Message>
            No features are built for this SAE, so its latents have no pages. Build them with <code>{sae.build_command}</code>
          </Message>
          <NoteBox sae={sae} latent={latent} />
        </div>
      )}
    </>
  );
}

const heading = (page: LatentPage): string => (page.label.explanation_leads ? page.label.explanation?.text : page.label.text) ?? "";

/** In this order where the database has them; other names that end in _auroc come after. */
const WAYS: [string, string][] = [
  ["label_auroc", "Label score"],
  ["hidden_auroc", "Hidden state"],
  ["combined_auroc", "Both"],
  ["embedding_auroc", "Embedding"],
  ["top_token_auroc", "Top token alone"],
];

/** The label's scores with their intervals, beside the trivial rule, and what they were counted on. */
function Backing({ page }: { page: LatentPage }) {
  const { run } = useShared();
  const ofRows = run.unit === "rows";
  const { stats } = page;
  const { text, explanation, explanation_leads } = page.label;
  const hints = page.label.hints?.filter((hint) => !text.includes(hint)) ?? [];
  const lead = [...(explanation_leads && text ? [text] : []), ...hints];
  const detection = explanation?.scores.detection_random;
  const more = Object.keys(stats).filter((name) => name.endsWith("_auroc") && !WAYS.some(([column]) => column === name));
  const ways = [...WAYS, ...more.map((name): [string, string] => [name, columnTitle(name)])].filter(([name]) => stats[name] != null);
  const counted = (firing: string, silent: string) =>
    stats[silent] == null ? count(stats[firing]) : `${count(stats[firing])} firing and ${count(stats[silent])} silent`;
  return (
    <>
      {explanation_leads && detection?.auroc != null && (
        <p class="scores muted">
          <span>
            <Explained text="AUROC of telling its contexts from random text, by this explanation">Explanation's score</Explained> <b>{num(detection.auroc)}</b>
            {detection.auroc_low != null && detection.auroc_high != null && ` [${num(detection.auroc_low)}, ${num(detection.auroc_high)}]`}
          </span>
        </p>
      )}
      {lead.length > 0 && (
        <p class="lead small">
          {explanation_leads && text && "Label: "}
          {lead.join(" · ")}
        </p>
      )}
      {ways.length > 0 && (
        <p class="scores muted">
          {ways.map(([name, title]) => {
            const ends = [stats[`${name}_low`], stats[`${name}_high`]];
            return (
              <span key={name}>
                <Explained text={columnHelp(name, run.unit)}>{title}</Explained> <b>{num(stats[name])}</b>
                {ends[0] != null && ends[1] != null && ` [${num(ends[0])}, ${num(ends[1])}]`}
              </span>
            );
          })}
          {stats.label_n != null && (
            <span>
              AUROC on held-out {ofRows ? "rows" : "windows"}, {counted("label_n", "label_n_negative")}
              {stats.label_n_documents != null && stats.label_n_documents !== (ofRows ? stats.label_n : null) && `; intervals count their ${ofRows ? "groups" : "documents"}, ${counted("label_n_documents", "label_n_negative_documents")}`}
            </span>
          )}
        </p>
      )}
    </>
  );
}

function Body({ page, view, sae }: { page: LatentPage; view: ReturnType<typeof useContextView>; sae: SaeEntry }) {
  const [tested, setTested] = useState(false);
  const { run } = useShared();
  const ofRows = run.unit === "rows";
  const { stats } = page;
  const { explanation } = page.label;
  const fired = (stats.n_fired ?? stats.firing_rate ?? 0) > 0;
  const facts = ["firing_rate", "mean", "max", "token_entropy", "first_share", "last_share"].filter((name) => name in stats);
  return (
    <div class="latent">
      <div class="stack">
        {fired ? (
          <Contexts page={page} view={view} />
        ) : (
          <Message>This latent never fired on the {count(sae.n_tokens)} {run.unit} that the features were built from.</Message>
        )}
        {explanation && <Explanation explanation={explanation} />}
        {!ofRows && <section class="card" aria-labelledby="own">
          <header>
            <h2 id="own">Test your own text</h2>
            <span class="sub">the model reads it and this latent's activation is shown at each token</span>
          </header>
          <OwnText sae={sae} latent={page.latent} max={stats.max ?? null} onResult={() => setTested(true)} />
          {!tested && page.raised[0] && <p class="small muted">Try a sentence about what the label names, and one that is not.</p>}
        </section>}
        <NoteBox sae={sae} latent={page.latent} />
      </div>
      <aside class="stack" aria-label="Numbers and neighbours">
        <section class="card" aria-labelledby="numbers">
          <h2 id="numbers">Firing</h2>
          <dl class="facts">
            {facts.map((name) => (
              <div key={name}>
                <dt>
                  <Explained text={columnHelp(name, run.unit)}>{columnTitle(name)}</Explained>
                </dt>
                <dd>{columnValue(name, stats[name])}</dd>
              </div>
            ))}
          </dl>
        </section>
        {fired && <Distribution page={page} />}
        {!ofRows && <Outputs page={page} />}
        <Near page={page} sae={sae} />
      </aside>
    </div>
  );
}

function Distribution({ page }: { page: LatentPage }) {
  const { run } = useShared();
  const { histogram, quantiles, positions } = page;
  const at = (level: number) => {
    const i = quantiles.levels.findIndex((quantile) => Math.abs(quantile - level) < 1e-6);
    return i >= 0 ? quantiles.values[i] : undefined;
  };
  const median = at(0.5);
  return (
    <section class="card" aria-labelledby="activations">
      <h2 id="activations">Activations</h2>
      {histogram.counts.length > 0 && (
        <Bars
          title="Activations above zero"
          xName="Activation"
          yName={run.unit === "rows" ? "Rows" : "Tokens"}
          edges={histogram.edges}
          counts={histogram.counts}
          line={median === undefined || median === null ? undefined : { at: median, name: "median" }}
        />
      )}
      {quantiles.levels.length > 0 && (
        <DataTable title="Quantiles" head={["Share below", "Activation"]} rows={quantiles.levels.map((level, i) => [share(level), num(quantiles.values[i])])} />
      )}
      {positions.length > 1 && (
        <Bars
          title="Where in the context it fires"
          xName="Position in the context, %"
          yName="Tokens"
          height={120}
          edges={[...positions, 0].map((_, i) => (100 * i) / positions.length)}
          counts={positions}
        />
      )}
    </section>
  );
}

function Outputs({ page }: { page: LatentPage }) {
  const { sae } = useShared();
  const table = (title: string, tokens: LatentPage["raised"]) => (
    <table>
      <thead>
        <tr>
          <th scope="col" colSpan={2}>{title}</th>
        </tr>
      </thead>
      <tbody>
        {tokens.slice(0, 10).map((token) => (
          <tr key={token.id}>
            <td>
              <a href={to.search(sae.site, sae.name, { mode: "token", q: token.text })} aria-label={`Latents of the token ${quoted(token.text)}`}>
                <Token text={token.text} />
              </a>
            </td>
            <td class="n">{num(token.value, 2)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
  return (
    <section class="card" aria-labelledby="outputs">
      <header>
        <h2 id="outputs">Output tokens</h2>
        <span class="sub">logit change by one unit of activation</span>
      </header>
      {page.no_output_tokens ? (
        <p class="small muted">None: {page.no_output_tokens}.</p>
      ) : (
        <div class="pair">
          {table("Raised", page.raised)}
          {table("Lowered", page.lowered)}
        </div>
      )}
    </section>
  );
}

function Near({ page, sae }: { page: LatentPage; sae: SaeEntry }) {
  const list = (title: string, help: Word, neighbours: LatentPage["neighbours"]["decoder"]) =>
    neighbours.length > 0 && (
      <div class="group">
        <h3>
          {title} <span class="muted"><Term word={help} /></span>
        </h3>
        <ul class="list">
          {neighbours.slice(0, 8).map((neighbour) => (
            <li key={neighbour.latent}>
              <a href={to.latent(sae.site, sae.name, neighbour.latent)}>
                <Named latent={neighbour.latent} label={neighbour.label} />
              </a>
              <span class="muted">{num(neighbour.value, 2)}</span>
            </li>
          ))}
        </ul>
      </div>
    );
  return (
    <section class="card" aria-labelledby="near">
      <h2 id="near">Nearest latents</h2>
      {list("By direction", "decoder cosine", page.neighbours.decoder)}
      {list("By firing together", "correlation", page.neighbours.coactivation)}
    </section>
  );
}
