/** Steering at a click: the model as it is beside the model with one clear latent pushed, at the strength that works best. */
import { useEffect, useRef, useState } from "preact/hooks";
import { api } from "../api";
import type { SaeEntry, SteerEvent, SteerExamples, SweepEvent } from "../api";
import { num } from "../format";
import { Message } from "../parts/bits";
import { Term } from "../parts/term";
import { to } from "../router";
import { sentence, useShared } from "../state";
import { patient } from "./patient";
import { request } from "./settings";
import type { Settings } from "./settings";

type Example = SteerExamples["examples"][number];
type Strength = Extract<SweepEvent, { kind: "strength" }>;
const STRENGTHS = [0.3, 0.4, 0.5, 0.65];
const PROMPT = "Tell me about your day.";
const N_TOKENS = 32;
/** Examples that are tried at the first click. */
const TRIES = 3;
/** An answer reads as a text with at least this share of distinct pairs of tokens, and at most this perplexity. */
const DISTINCT = 0.5;
const PERPLEXITY = 25;

const settings = (latent: number, value: number): Settings => ({
  prompt: PROMPT, edits: [{ latent, operation: "set", value, unit: "norm", sae: "" }], positions: { where: "all" }, keep_error: true,
  columns: ["default"], instruction: "", chat: null, control: null, n_tokens: N_TOKENS, temperature: 0, seed: 0,
});

/** How often a text has one of the words, whatever their case; those of five letters and more with any ending. */
function hits(text: string, words: string[]): number {
  const lower = words.map((word) => word.toLowerCase());
  return (text.toLowerCase().match(/\p{L}+/gu) ?? []).filter((word) => lower.some((target) => (target.length < 5 ? word === target : word.startsWith(target)))).length;
}

/** How often an answer says the words, up to three times, and how little it repeats itself; below 0 where it no longer reads as a text. */
function worth(strength: Strength | undefined, words: string[]): number {
  const reads = strength && (strength.distinct[1] ?? 0) >= DISTINCT && (strength.perplexity ?? Infinity) <= PERPLEXITY;
  return strength ? Math.min(3, hits(strength.text, words)) + (strength.distinct[1] ?? 0) - (reads ? 0 : 10) : -10;
}

/** The strength whose answer is worth most; of equals the weakest. */
function best(strengths: Strength[], words: string[]): Strength | undefined {
  return [...strengths].sort((a, b) => worth(b, words) - worth(a, words) || a.value - b.value)[0];
}

export function TalkLike({ sae }: { sae: SaeEntry }) {
  const { model, watchModel } = useShared();
  const [examples, setExamples] = useState<Example[] | null>(null);
  const [at, setAt] = useState<Example | null>(null);
  const [plain, setPlain] = useState("");
  const [strengths, setStrengths] = useState<Strength[]>([]);
  const [step, setStep] = useState("");
  const [error, setError] = useState<string | null>(null);
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);

  /** Writes at all strengths; answers whether one of them says the latent's words and reads as a text. */
  const write = async (example: Example, signal: AbortSignal): Promise<boolean> => {
    const written: Strength[] = [];
    setAt(example);
    setStrengths([]);
    const onEvent = (event: SteerEvent | SweepEvent) => {
      if (event.kind === "done") setPlain(event.text);
      if (event.kind === "strength") written.push(event);
      if (event.kind === "progress") setStep(`Writing, token ${event.step} of ${event.n_tokens}`);
      if (event.kind === "error") setError(event.error);
    };
    const body = request(settings(example.latent, 0), sae);
    setStep("Writing…");
    if (!plain) await patient(() => api.steer(body, onEvent, signal), signal);
    await patient(() => api.sweep({ ...body, columns: ["steered"], values: STRENGTHS }, onEvent, signal), signal);
    setStrengths(written);
    return worth(best(written, example.words), example.words) > 1;
  };
  /** Without an example, goes on to the next example until one works. */
  const start = async (picked?: Example) => {
    const controller = new AbortController();
    const { signal } = controller;
    abort.current?.abort();
    abort.current = controller;
    setError(null);
    setStep(model.state === "ready" ? "Choosing a latent…" : "Loading the model, some seconds…");
    watchModel();
    try {
      const candidates = examples ?? (await api.steerExamples(sae.site, sae.name, signal)).examples;
      setExamples(candidates);
      for (const example of picked ? [picked] : candidates.slice(0, TRIES)) {
        if (await write(example, signal)) break;
      }
    } catch (reason) {
      if (!signal.aborted) setError(sentence(reason));
    }
    if (abort.current === controller) setStep("");
    watchModel();
  };
  return (
    <section class="card stack" aria-labelledby="talk">
      <header>
        <h2 id="talk">Steer it</h2>
        <span class="sub">The model's answer to “{PROMPT}” with one latent pushed, beside the answer as it is.</span>
      </header>
      <div class="row">
        {!examples && (
          <button type="button" class="primary" disabled={step !== ""} onClick={() => void start()}>
            Make it talk like one of its latents
          </button>
        )}
        {examples?.map((example) => (
          <button type="button" key={example.latent} aria-pressed={at?.latent === example.latent} onClick={() => void start(example)}>
            Talk like {example.words.slice(0, 2).map((word) => `“${word}”`).join(", ")}
          </button>
        ))}
        <span class={`small muted${step ? " busy" : ""}`} role="status">{step}</span>
      </div>
      {error && <Message bad>{error}</Message>}
      {examples?.length === 0 && !step && (
        <p class="small muted">None of its clear latents made the model say its words; try one on the <a href={to.steer(sae.site, sae.name)}>steering page</a>.</p>
      )}
      {at && (plain || strengths.length > 0) && <Written sae={sae} example={at} plain={plain} strengths={strengths} />}
    </section>
  );
}

function Written({ sae, example, plain, strengths }: { sae: SaeEntry; example: Example; plain: string; strengths: Strength[] }) {
  const [picked, setPicked] = useState<number | null>(null);
  const current = strengths.find((strength) => strength.value === picked) ?? best(strengths, example.words);
  const n = current ? hits(current.text, example.words) : 0;
  return (
    <>
      <div class="two">
        <div class="stack tight">
          <h3>As it is</h3>
          <p class="answer">{plain || "…"}</p>
        </div>
        <div class="stack tight">
          <h3>
            With latent <a href={to.latent(sae.site, sae.name, example.latent)}>{example.latent} {example.label}</a>
          </h3>
          <p class="answer">{current?.text ?? "…"}</p>
        </div>
      </div>
      {current && (
        <div class="row between small">
          <span class="row">
            <span class="muted">Strength, in norms of the activation:</span>
            {strengths.map((strength) => (
              <button type="button" key={strength.value} aria-pressed={strength === current} onClick={() => setPicked(strength.value)}>
                {strength.value}
              </button>
            ))}
          </span>
          <span class="muted">
            {n > 0 ? `It says ${n === 1 ? "one of its words once" : `its words ${n} times`}` : "It says none of its words"}; <Term word="perplexity" /> under the unsteered model {num(current.perplexity)}.{" "}
            <a href={to.steer(sae.site, sae.name, { e: `${example.latent}:set:${current.value}:norm`, say: `Talk about ${example.words[0]}.` })}>Go on on the steering page</a>
          </span>
        </div>
      )}
    </>
  );
}
