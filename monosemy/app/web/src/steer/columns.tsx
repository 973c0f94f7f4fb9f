/** The answers side by side as they are written, then shaded by what was measured of each token. */
import type { MeasuredToken, SteerColumn, SteerEvent } from "../api";
import { num, signed } from "../format";
import { DataTable } from "../parts/bits";
import { Context } from "../parts/context";
import { Explained, Term } from "../parts/term";
import { quoted } from "../parts/tokens";
import { COLUMNS } from "./settings";

export type Shading = "change" | "kl" | "latent" | "none";
export const SHADINGS: { value: Shading; text: string; help: string }[] = [
  { value: "latent", text: "Latent", help: "A changed latent's activation, after the change" },
  { value: "kl", text: "KL", help: "How far the predictions moved from the unsteered model's, in nats" },
  { value: "change", text: "Log-probability", help: "How much likelier (orange) or less likely (blue) the token became, in nats" },
  { value: "none", text: "Plain", help: "No shades" },
];

type Measure = Extract<SteerEvent, { kind: "measure" }>;
export interface Answer {
  column: SteerColumn;
  prompt: string;
  tokens: string[];
  stopped: "end" | "length" | null;
  measure: Measure | null;
}

/** The answers after one more event of the stream. */
export function after(answers: Answer[], event: SteerEvent): Answer[] {
  if (event.kind === "start") {
    return event.columns.map(({ column, prompt }) => ({ column, prompt, tokens: [], stopped: null, measure: null }));
  }
  if (event.kind === "end" || event.kind === "error") return answers;
  return answers.map((answer) => {
    if (answer.column !== event.column) return answer;
    if (event.kind === "token") return { ...answer, tokens: [...answer.tokens, event.text] };
    if (event.kind === "done") return { ...answer, stopped: event.stopped };
    return { ...answer, measure: event };
  });
}

const change = (token: MeasuredToken): number =>
  token.log_prob === null || token.unsteered_log_prob === null ? 0 : token.log_prob - token.unsteered_log_prob;

/** `traced`: which of the edits' latents. */
function value(token: MeasuredToken, shading: Shading, traced: number): number {
  if (shading === "change") return change(token);
  if (shading === "kl") return token.kl ?? 0;
  return shading === "latent" ? (token.edited_activations[traced] ?? 0) : 0;
}

/** The darkest shade's value: the same in every column, so that they can be compared. */
export function shadeMax(answers: Answer[], shading: Shading, traced: number): number {
  const all = answers.flatMap((answer) => answer.measure?.tokens.map((token) => Math.abs(value(token, shading, traced))) ?? []);
  return Math.max(1e-6, ...all);
}

interface ColumnProps {
  answer: Answer;
  shading: Shading;
  max: number;
  running: boolean;
  /** The latents of the random column, as they are named. */
  controls: string[];
  /** Which edit's latent is traced, and its name where there are several. */
  traced: number;
  latent: string | null;
}

export function Column({ answer, shading, max, running, controls, traced, latent }: ColumnProps) {
  const about = COLUMNS.find((option) => option.value === answer.column);
  const { measure } = answer;
  const drawn = [...new Set(controls)];
  const texts = measure ? measure.tokens.map((token) => token.text) : answer.tokens;
  const values = measure ? measure.tokens.map((token) => value(token, shading, traced)) : [];
  const writing = running && answer.stopped === null;
  return (
    <section class="card column" aria-label={about?.text} data-column={answer.column}>
      <header>
        <h2>{about?.text}</h2>
        <p class="sub">
          {about?.about}
          {answer.column === "random" && drawn.length > 0 && ` (${drawn.length > 1 ? "latents" : "latent"} ${drawn.join(", ")})`}
        </p>
      </header>
      <div class={`generated${writing ? " caret" : ""}`}>
        {texts.length > 0 && (
          <Context
            run={{ tokens: texts, special: [] }}
            values={values}
            max={max}
            signed={shading === "change"}
            name={`${about?.text} answer`}
            say={shading === "change" ? (v) => `${signed(v)} nats` : shading === "kl" ? (v) => `KL ${num(v)}` : shading === "none" ? () => "" : num}
          />
        )}
      </div>
      {measure && <Measures measure={measure} column={answer.column} traced={traced} latent={latent} />}
    </section>
  );
}

function Measures({ measure, column, traced, latent }: { measure: Measure; column: SteerColumn; traced: number; latent: string | null }) {
  const name = latent === null ? "Latent" : `Latent ${latent}`;
  const [, two = null] = measure.distinct;
  return (
    <>
      <dl>
        <dt><Term word="perplexity">Perplexity</Term></dt>
        <dd>{num(measure.perplexity)}</dd>
        <dt><Term word="distinct pairs">Distinct pairs</Term></dt>
        <dd>{num(two, 2)}</dd>
        <dt><Term word="KL" /></dt>
        <dd>{num(measure.mean_kl)}</dd>
        <dt><Explained text="Mean change of the answer's log-probability, nats per token.">Log-probability</Explained></dt>
        <dd>{signed(measure.mean_log_prob_change)}</dd>
      </dl>
      <details class="data">
        <summary>Prompt as the model read it</summary>
        {/* The first token's activation is an outlier on which no SAE was trained: it doesn't set the scale. */}
        <Context
          run={{ tokens: measure.prompt_tokens.map((token) => token.text), special: [] }}
          values={measure.prompt_tokens.map((token) => token.edited_activations[traced] ?? 0)}
          max={Math.max(1e-6, ...measure.prompt_tokens.slice(1).map((token) => token.edited_activations[traced] ?? 0))}
          name="Prompt"
          detail={(token) => `before the change ${num(measure.prompt_tokens[token]?.activations[traced])}`}
        />
      </details>
      <DataTable
        title="Tokens"
        of={column}
        head={["Token", "Log-prob.", "Unsteered", "Change", "KL", `${name} before`, "after"]}
        rows={measure.tokens.map((token) => [
          quoted(token.text),
          num(token.log_prob),
          num(token.unsteered_log_prob),
          signed(change(token)),
          num(token.kl),
          num(token.activations[traced]),
          num(token.edited_activations[traced]),
        ])}
      />
    </>
  );
}
