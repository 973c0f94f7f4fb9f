/** What was found: a handful of clear latents as cards, and one of them made to speak. */
import { api } from "../api";
import type { Highlight, SaeEntry } from "../api";
import { count, interval, num, saeTitle, share } from "../format";
import { to } from "../router";
import { useLoad, useShared } from "../state";
import { TalkLike } from "../steer/talk-like";
import { Await } from "./bits";
import { Context } from "./context";
import { clearQuery } from "./filters";
import { RowExample } from "./row-examples";
import { Term } from "./term";
import { dense, quoted } from "./tokens";

export function Found({ sae }: { sae: SaeEntry }) {
  const { run } = useShared();
  const highlights = useLoad((signal) => api.highlights(sae.site, sae.name, signal), [sae]);
  const steerable = run.unit !== "rows" && !sae.source_site;
  return (
    <Await of={highlights}>
      {(summary) => {
        return summary.latents.length === 0 ? null : (
          <>
            <section aria-labelledby="found">
              <header class="found-head">
                <h2 id="found">What was found</h2>
                <p class="small muted">
                  {summary.n_clear > 0 ? (
                    <>
                      <a href={to.latents(sae.site, sae.name, clearQuery(run, sae))}>{count(summary.n_clear)} of {count(sae.d_sae)} latents</a> of {saeTitle(sae)} are clear: their <Term word="label score">label's score</Term> is at least{" "}
                      {summary.clear_score} even at the lower end of its interval, and they are neither very rare nor common. Some of them, unlike each other:
                    </>
                  ) : (
                    <>No latent of {saeTitle(sae)} is clear by its <Term word="label score">label's score</Term>, which more text or longer training may change. The best are:</>
                  )}
                </p>
              </header>
              <ul class="cards">
                {summary.latents.map((card) => (
                  <Card card={card} sae={sae} key={card.latent} />
                ))}
              </ul>
              <p class="small more-link">
                <a href={to.latents(sae.site, sae.name)}>All latents, clear ones first</a>
              </p>
            </section>
            {steerable && <TalkLike sae={sae} key={`${sae.site}/${sae.name}`} />}
          </>
        );
      }}
    </Await>
  );
}

function Card({ card, sae }: { card: Highlight; sae: SaeEntry }) {
  const { run } = useShared();
  const { stats } = card;
  const href = to.latent(sae.site, sae.name, card.latent);
  const ends = stats.label_auroc_low != null && stats.label_auroc_high != null ? ([stats.label_auroc_low, stats.label_auroc_high] as [number, number]) : null;
  const max = Math.max(1e-9, ...card.examples.map((example) => example.value));
  return (
    <li class="card found">
      <h3>
        <a href={href}>{card.label || `Latent ${card.latent}`}</a>
      </h3>
      <p class="small muted">
        <span class="id">{card.latent}</span> fires on {share(stats.firing_rate)} of {run.unit}
        {stats.label_auroc != null && (
          <>
            ; label score <b>{num(stats.label_auroc)}</b> {interval(ends)}
          </>
        )}
      </p>
      {card.examples.map((example, i) =>
        run.unit === "rows" ? (
          <ul class="row-examples" key={example.context}>
            <RowExample example={example} max={max} sae={sae} />
          </ul>
        ) : (
          <Context
            key={`${example.context}-${i}`}
            run={example}
            values={dense(example.tokens.length, example.activations)}
            max={max}
            name={`Context ${i + 1}, ${num(example.value)} at ${quoted(example.tokens[example.peak] ?? "")}`}
            detail={() => example.source}
          />
        ),
      )}
    </li>
  );
}
