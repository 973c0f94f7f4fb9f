/** Finding latents: by words of their label, by a token at which they peak, or by the reader's own text. */
import { useEffect, useState } from "preact/hooks";
import { api } from "../api";
import type { MeaningHit, SearchHit } from "../api";
import { count, num, saeTitle, share } from "../format";
import { ROW_KEYS, stepRow, useKeys } from "../keys";
import { AddressProblems, unknownWord } from "../parts/address";
import { Await, Choice, Message } from "../parts/bits";
import { OwnText } from "../parts/own-text";
import { Explained, Term } from "../parts/term";
import { Token } from "../parts/token";
import { setQuery, to } from "../router";
import { useLoad, useSettled, useShared } from "../state";

type Mode = "label" | "token" | "text";
const MODES: { value: Mode; text: string; about: string; hint: string }[] = [
  { value: "label", text: "Concept", about: "Words of a latent's label or explanation, then latents of like meaning.", hint: "month, France, gender…" },
  { value: "token", text: "Token", about: "A piece of text as the model sees it; latents that peak there most come first.", hint: "July" },
  { value: "text", text: "Your text", about: "The model reads your text, and you see which latents fire at each token.", hint: "" },
];
const ROW_MODES: typeof MODES = [
  { value: "label", text: "Label", about: "Words anywhere in a latent's label.", hint: "a word" },
  { value: "token", text: "Row", about: "Words as they stand in the text of a row; latents that fire most on such rows come first.", hint: "part of a row's text" },
];

export function SearchPage({ query }: { query: URLSearchParams }) {
  const { run, sae } = useShared();
  const modes = run.unit === "rows" ? ROW_MODES : MODES;
  const mode = modes.find((option) => option.value === query.get("mode")) ?? modes[0]!;
  const q = query.get("q") ?? "";
  useEffect(() => {
    document.title = `${q ? `${q} · ` : ""}Search · monosemy`;
  }, [q]);
  useKeys(ROW_KEYS);
  const usable = sae.has_features || mode.value === "text";
  return (
    <>
      <div class="head">
        <div>
          <h1>Search</h1>
          <p class="lead">in {saeTitle(sae)}{run.unit === "rows" ? `, by its ${count(sae.n_tokens)} rows` : <>, at the <Term word="site" /> {sae.site}</>}</p>
        </div>
      </div>
      <AddressProblems problems={unknownWord(query, "mode", modes.map((option) => option.value))} />
      <section class="card stack" aria-label="Search">
        <div class="row">
          <Choice name="Search by" value={mode.value} options={modes} onPick={(next) => setQuery({ mode: next === "label" ? null : next })} />
          <span class="small muted">{mode.about}</span>
        </div>
        {!usable && (
          <Message>
            No features are built for this SAE, so labels and tokens can't be searched. Build them with <code>{sae.build_command}</code>
          </Message>
        )}
        {usable && mode.value === "text" && <OwnText sae={sae} />}
        {usable && mode.value !== "text" && (
          <>
            <Box q={q} hint={mode.hint} name={mode.value} />
            {mode.value === "label" ? <Labels q={q} /> : <Tokens q={q} />}
          </>
        )}
      </section>
    </>
  );
}

function Box({ q, hint, name }: { q: string; hint: string; name: string }) {
  const [text, setText] = useState(q);
  const settled = useSettled(text, 150);
  useEffect(() => setText(q), [q]);
  useEffect(() => {
    if (settled === text) setQuery({ q: settled });
  }, [settled]);
  return (
    <div class="search">
      <input
        type="search"
        data-search
        aria-label={`Search by ${name.toLowerCase()}`}
        placeholder={hint}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "ArrowDown" || event.key === "Enter") {
            event.preventDefault();
            stepRow(1);
          }
        }}
        ref={(input) => {
          if (input && document.activeElement?.tagName === "MAIN" && !text) input.focus();
        }}
      />
    </div>
  );
}

function Labels({ q }: { q: string }) {
  const { run, sae } = useShared();
  const results = useLoad(q.trim() ? (signal) => api.search(sae.site, sae.name, q, 100, signal) : null, [sae, q]);
  if (!q.trim()) return null;
  return (
    <>
      <ByNumber q={q} />
      <Await of={results}>{(value) => <Hits hits={value.hits} none={`No label has “${q}”.`} />}</Await>
      {run.unit !== "rows" && <ByMeaning q={q} />}
    </>
  );
}

/** Where the query is a number: the latent of that number, or which numbers there are. */
function ByNumber({ q }: { q: string }) {
  const { sae } = useShared();
  if (!/^\d+$/.test(q.trim())) return null;
  const latent = Number(q);
  if (latent >= sae.d_sae) return <Message>There is no latent {q.trim()}: this SAE has latents 0 to {sae.d_sae - 1}. Below are those whose label has “{q.trim()}”.</Message>;
  return <p class="small">By its number: <a href={to.latent(sae.site, sae.name, latent)}>latent {latent}</a></p>;
}

/** Latents whose words mean something like the query: at once where the model is loaded, else when asked. */
function ByMeaning({ q }: { q: string }) {
  const { sae, model, watchModel } = useShared();
  const [loading, setLoading] = useState(false);
  const on = loading || model.state === "ready";
  const ask = (signal: AbortSignal) => api.meaning(sae.site, sae.name, q, signal).finally(watchModel);
  const results = useLoad(on ? ask : null, [sae, q, on]);
  if (!on) {
    return (
      <div class="row">
        <button type="button" onClick={() => { setLoading(true); watchModel(); }}>Also find latents by meaning</button>
        <span class="small muted">Loads the model, whose word embedding is used: some seconds, once.</span>
      </div>
    );
  }
  return (
    <section class="stack tight" aria-labelledby="meaning">
      <h2 id="meaning">By meaning</h2>
      <Await of={results}>
        {(value) => {
          const near = value.hits.filter((hit) => hit.score >= value.near);
          return (
            <>
              {near.length === 0 && value.hits.length > 0 && <p class="small muted">No latent's words lie near “{q}”. The nearest concepts there are:</p>}
              <Hits hits={near.length ? near : value.hits.slice(0, 5)} none={`Nothing can be compared with “${q}”.`} by />
            </>
          );
        }}
      </Await>
    </section>
  );
}

function Tokens({ q }: { q: string }) {
  const { run, sae } = useShared();
  const ofRows = run.unit === "rows";
  const results = useLoad(q ? (signal) => api.token(sae.site, sae.name, q, 100, signal) : null, [sae, q]);
  if (!q) return null;
  return (
    <Await of={results}>
      {(value) => (
        <>
          {value.tokens.length > 0 && (
            <div class="row small">
              <span class="muted">{ofRows ? "Rows that match:" : "Tokens that match:"}</span>
              {value.tokens.slice(0, ofRows ? 5 : 16).map((token) => (
                <button type="button" class="quiet" key={token.id} aria-pressed={token.text === q} onClick={() => setQuery({ q: token.text })}>
                  {ofRows ? token.text : <Token text={token.text} />}
                </button>
              ))}
            </div>
          )}
          <Hits
            hits={value.hits}
            none={value.tokens.length ? `No latent peaks on these ${run.unit}.` : ofRows ? `No row has “${q}”.` : `The model has no token that begins with “${q}”.`}
            token={(hit) => value.tokens.find((token) => token.id === (hit as { token?: number }).token)?.text ?? ""}
          />
        </>
      )}
    </Await>
  );
}

function Hits({ hits, none, token, by }: { hits: SearchHit[]; none: string; token?: (hit: SearchHit) => string; by?: boolean }) {
  const { run, sae } = useShared();
  const ofRows = run.unit === "rows";
  if (!hits.length) return <p class="empty">{none}</p>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={by ? "Latents by meaning, table" : "Latents found, table"}>
      <p class="small muted" role="status">{hits.length === 100 ? "The best 100" : `${hits.length} found`}</p>
      <table>
        <thead>
          <tr>
            <th scope="col"><Term word="latent">Latent</Term></th>
            <th scope="col"><Term word="label">Label</Term></th>
            {token && <th scope="col">{ofRows ? "Strongest of these rows" : "Peaks on"}</th>}
            {token && (
              <th scope="col" class="n">
                <Explained text={ofRows ? "Mean activation on the matching rows, as a share of its largest" : "How strongly the token stands for this latent"}>Score</Explained>
              </th>
            )}
            {by && <th scope="col">Near by</th>}
            {by && <th scope="col" class="n"><Explained text="How near its words lie to yours in the model's embedding; 1 is the same">Nearness</Explained></th>}
            <th scope="col" class="n"><Term word="firing rate">Fires on</Term></th>
            <th scope="col" class="n"><Term word="label score">Label score</Term></th>
          </tr>
        </thead>
        <tbody>
          {hits.map((hit, i) => (
            <tr key={`${hit.latent}-${i}`}>
              <td>
                <a href={to.latent(sae.site, sae.name, hit.latent)}>{hit.latent}</a>
              </td>
              <td class="w">
                <a data-row class="plain" href={to.latent(sae.site, sae.name, hit.latent)}>{hit.label || "no label"}</a>
              </td>
              {token && <td class={ofRows ? "w" : "nowrap"}>{ofRows ? token(hit) : <Token text={token(hit)} />}</td>}
              {token && <td class="n">{num(hit.score, 2)}</td>}
              {by && <td>{[...new Set((hit as MeaningHit).by.map((text) => text.trim()))].join(", ")}</td>}
              {by && <td class="n">{num(hit.score, 2)}</td>}
              <td class="n">{share(hit.firing_rate)}</td>
              <td class="n">{num(hit.label_auroc)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
