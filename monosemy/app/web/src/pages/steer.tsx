/** Steering: change latents while the model writes, beside the unchanged model, a prompt and a random latent. */
import { useEffect, useRef, useState } from "preact/hooks";
import { api } from "../api";
import type { SteerColumn, SteerEvent } from "../api";
import { saeTitle } from "../format";
import { Choice, Message } from "../parts/bits";
import { Ramp } from "../parts/context";
import { NumberField } from "../parts/number";
import { Term } from "../parts/term";
import { setQuery } from "../router";
import { sentence, useShared } from "../state";
import { Column, SHADINGS, after, shadeMax } from "../steer/columns";
import type { Answer, Shading } from "../steer/columns";
import { Edits } from "../steer/edits";
import { patient } from "../steer/patient";
import { Recipes } from "../steer/recipes";
import { COLUMNS, editProblems, read, request, written } from "../steer/settings";
import type { Settings } from "../steer/settings";
import { Sweep } from "../steer/sweep";
import { TalkLike } from "../steer/talk-like";

export function SteerPage({ query }: { query: URLSearchParams }) {
  const { sae, run: { saes } } = useShared();
  const settings = read(query, sae, saes);
  const change = (values: Partial<Settings>) => setQuery(written({ ...settings, ...values }));
  const problems = editProblems(query, sae, saes);
  const run = useRun();
  useEffect(() => {
    document.title = "Steer · monosemy";
  }, []);
  const start = () => void run.start(settings, sae);
  return (
    <>
      <div class="head">
        <div>
          <h1>Steer</h1>
          <p class="lead">
            Change <Term word="latent">latents</Term> of {saeTitle(sae)} at the <Term word="site" /> {sae.site} while the model writes, and see what that does.
            {saes.length > 1 && " Latents of the run's other SAEs, at this site or another, can be changed in the same pass."}
          </p>
        </div>
      </div>
      <div class="stack">
        {problems.length > 0 && (
          <Message bad>
            The address asks for changes that can't be made, so they are left out. {problems.join(". ")}.{" "}
            <button type="button" onClick={() => change({})}>Go on without</button>
          </Message>
        )}
        <div class="steer">
          <form
            class="card stack"
            aria-label="What to do"
            onSubmit={(event) => {
              event.preventDefault();
              start();
            }}
          >
            <Edits sae={sae} edits={settings.edits} onChange={(edits) => change({ edits })} />
            <Prompt settings={settings} change={change} />
            <More settings={settings} change={change} />
            <div class="row">
              {/* Keys: one element turned from Stop into Write during a click would submit the form. */}
              {run.running ? (
                <button key="stop" type="button" class="primary" onClick={run.stop}>Stop</button>
              ) : (
                <button key="write" type="submit" class="primary" disabled={run.busy || !settings.edits.length || !settings.prompt}>Write</button>
              )}
              <Status run={run} />
            </div>
            <Recipes settings={settings} sae={sae} />
          </form>
          <div class="stack">
            {run.error && <Message bad>{run.error}</Message>}
            <Answers run={run} settings={settings} query={query} />
            <Sweep settings={settings} sae={sae} busy={run.busy} onBusy={run.setBusy} />
          </div>
        </div>
      </div>
    </>
  );
}

function useRun() {
  const { watchModel } = useShared();
  const [answers, setAnswers] = useState<Answer[]>([]);
  const [controls, setControls] = useState<Traced[]>([]);
  const [latents, setLatents] = useState<Traced[]>([]);
  const [error, setError] = useState<string | null>(null);
  const [running, setRunning] = useState(false);
  const [busy, setBusy] = useState(false);
  const [seconds, setSeconds] = useState<number | null>(null);
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);
  const start = async (settings: Settings, sae: { site: string; name: string }) => {
    const controller = new AbortController();
    abort.current = controller;
    setAnswers([]);
    setError(null);
    setSeconds(null);
    setRunning(true);
    setBusy(true);
    watchModel();
    try {
      const on = (event: SteerEvent) => {
        if (event.kind === "error") setError(event.error);
        if (event.kind === "start") {
          const edited = (column: SteerColumn) => event.columns.find((answer) => answer.column === column)?.edits ?? [];
          setControls(edited("random"));
          setLatents(edited("steered"));
        }
        if (event.kind === "end") setSeconds(event.seconds);
        setAnswers((old) => after(old, event));
      };
      await patient(() => api.steer(request(settings, sae), on, controller.signal), controller.signal);
    } catch (reason) {
      if (!controller.signal.aborted) setError(sentence(reason));
    }
    setRunning(false);
    setBusy(false);
    watchModel();
  };
  return { answers, controls, latents, error, running, busy, setBusy, seconds, start, stop: () => abort.current?.abort() };
}

type Run = ReturnType<typeof useRun>;

/** A latent whose activations are shown. */
interface Traced {
  sae: string;
  latent: number;
}

/** `12`, or `12 of SITE/NAME` for a latent of another SAE than the page's. */
const tracedName = ({ sae, latent }: Traced): string => (sae ? `${latent} of ${sae}` : `${latent}`);

function Status({ run }: { run: Run }) {
  const { model } = useShared();
  const text = run.running ? (model.state === "loading" ? "Loading the model…" : "Writing…") : run.seconds !== null ? `${run.seconds.toFixed(1)} s` : "";
  return (
    <span class={`small muted${run.running ? " busy" : ""}`} role="status">
      {text}
    </span>
  );
}

function Answers({ run, settings, query }: { run: Run; settings: Settings; query: URLSearchParams }) {
  const { sae } = useShared();
  const shading: Shading = SHADINGS.find((option) => option.value === query.get("shade"))?.value ?? "latent";
  const names = (run.answers.length ? run.latents : settings.edits).map(tracedName);
  const traced = Math.max(0, names.indexOf(query.get("trace") ?? ""));
  const several = new Set(names).size > 1;
  const max = shadeMax(run.answers, shading, traced);
  const measured = run.answers.some((answer) => answer.measure);
  const waiting: Answer[] = settings.columns.map((column) => ({ column, prompt: "", tokens: [], stopped: "end", measure: null }));
  const columns = run.answers.length ? run.answers : waiting;
  if (!settings.edits.length && !run.answers.length) {
    return (
      <>
        <section class="card">
          <p class="empty">
            Choose one latent or several at the left: by number, or by words of the label. Then the model's answer stands here
            beside the steered one, a prompted one and one with a random latent changed. Or begin with an example:
          </p>
        </section>
        {sae.has_features && <TalkLike sae={sae} />}
      </>
    );
  }
  return (
    <>
      <div class="row between">
        <Choice name="Shade tokens by" value={shading} options={SHADINGS} onPick={(shade) => setQuery({ shade: shade === "latent" ? null : shade })} />
        {several && (
          <label class="row small">
            Traced latent{" "}
            <select value={names[traced]} onChange={(event) => setQuery({ trace: event.currentTarget.value === names[0] ? null : event.currentTarget.value })}>
              {[...new Set(names)].map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
        )}
        {measured && shading !== "none" && (
          <Ramp max={max} signed={shading === "change"} unit={shading === "latent" ? "activation" : "nats"} />
        )}
      </div>
      <div class={columns.length > 2 ? "four" : "two"}>
        {columns.map((answer) => (
          <Column key={answer.column} answer={answer} shading={shading} max={max} running={run.running} controls={run.controls.map(tracedName)} traced={traced} latent={several ? (names[traced] ?? null) : null} />
        ))}
      </div>
    </>
  );
}

interface Part {
  settings: Settings;
  change: (values: Partial<Settings>) => void;
}

function Prompt({ settings, change }: Part) {
  const { run, model } = useShared();
  return (
    <>
      <label class="field">
        <span>Prompt</span>
        <textarea rows={3} maxLength={run.limits.text_characters} value={settings.prompt} onInput={(event) => change({ prompt: event.currentTarget.value })} />
      </label>
      {model.chat !== false && (
        <label class="check">
          <input type="checkbox" checked={settings.chat ?? model.chat ?? true} onChange={(event) => change({ chat: event.currentTarget.checked })} />
          As a message in a chat
        </label>
      )}
      <label class="field">
        <span>Instruction for the prompted column</span>
        <input placeholder="Talk about July." value={settings.instruction} maxLength={run.limits.text_characters} onInput={(event) => change({ instruction: event.currentTarget.value })} />
      </label>
      {settings.columns.includes("prompted") && !settings.instruction.trim() && (
        <p class="small muted">Without an instruction the prompted column is left out.</p>
      )}
    </>
  );
}

function More({ settings, change }: Part) {
  const { run, sae } = useShared();
  const { positions } = settings;
  const toggle = (column: SteerColumn, on: boolean) =>
    change({ columns: COLUMNS.map((option) => option.value).filter((name) => (name === column ? on : settings.columns.includes(name))) });
  const number = (name: string, value: number, step: number, min: number, max: number, set: (value: number) => void) => (
    <label class="field">
      <span>{name}</span>
      <NumberField value={value} step={step} min={min} max={max} onNumber={(number) => set(Math.min(max, Math.max(min, number ?? 0)))} />
    </label>
  );
  return (
    <details class="data">
      <summary>More settings</summary>
      <div class="stack tight more">
        <label class="field">
          <span>Tokens that are changed</span>
          <select value={positions.where} onChange={(event) => change({ positions: { where: event.currentTarget.value as typeof positions.where, start: 0, stop: null } })}>
            <option value="all">All</option>
            <option value="prompt">The prompt's</option>
            <option value="generated">Those that the model writes</option>
            <option value="range">A range</option>
          </select>
        </label>
        {positions.where === "range" && (
          <div class="knobs">
            {number("From token", positions.start ?? 0, 1, 0, 1e6, (start) => change({ positions: { ...positions, start } }))}
            {number("To, not included (0: no end)", positions.stop ?? 0, 1, 0, 1e6, (stop) => change({ positions: { ...positions, stop: stop || null } }))}
          </div>
        )}
        <div class="knobs">
          {number("Tokens to write", settings.n_tokens, 1, 1, run.limits.new_tokens, (n_tokens) => change({ n_tokens }))}
          {number("Temperature", settings.temperature, 0.1, 0, 5, (temperature) => change({ temperature }))}
          {number("Seed", settings.seed, 1, 0, 2 ** 31, (seed) => change({ seed }))}
        </div>
        {settings.columns.includes("random") && (
          <label class="field">
            <span>Latent of the random column</span>
            <NumberField min={0} max={sae.d_sae - 1} placeholder="drawn from the seed" value={settings.control} onNumber={(control) => change({ control })} />
          </label>
        )}
        <label class="check">
          <input type="checkbox" checked={settings.keep_error} onChange={(event) => change({ keep_error: event.currentTarget.checked })} />
          Keep what the SAE does not reconstruct
        </label>
        <fieldset class="stack tight">
          <legend class="label">Columns</legend>
          {COLUMNS.map((option) => (
            <label class="check" key={option.value}>
              <input type="checkbox" checked={settings.columns.includes(option.value)} disabled={option.value === "steered"} onChange={(event) => toggle(option.value, event.currentTarget.checked)} />
              {option.text} <span class="muted">{option.about}</span>
            </label>
          ))}
        </fieldset>
      </div>
    </details>
  );
}
