/** The contexts of a latent by group, with the choice of length and of visible white space. */
import type { Example, ExampleGroup, LatentPage } from "../api";
import { num } from "../format";
import { setQuery } from "../router";
import { remember, useShared } from "../state";
import { Choice } from "./bits";
import { Context, Ramp } from "./context";
import { RowExample } from "./row-examples";
import { dense, quoted } from "./tokens";

const LENGTHS = ["line", "passage", "whole"] as const;
type Length = (typeof LENGTHS)[number];
type Tab = "top" | "quantiles" | "near_miss" | "random";

function setLength(length: Length): void {
  remember("contexts", length);
  setQuery({ ctx: length === "line" ? null : length });
}

export interface ContextView {
  length: Length;
  spaces: boolean;
  tab: Tab;
  nextLength: () => void;
  toggleSpaces: () => void;
}

/** The view of contexts, all of it from the address; the length is remembered for the next latent's (`to.latent`). */
export function useContextView(query: URLSearchParams): ContextView {
  const length = LENGTHS.find((name) => name === query.get("ctx")) ?? "line";
  const tab = (["top", "quantiles", "near_miss", "random"] as const).find((name) => name === query.get("show")) ?? "top";
  const spaces = query.get("spaces") === "1";
  return {
    length,
    spaces,
    tab,
    nextLength: () => {
      const next = LENGTHS[(LENGTHS.indexOf(length) + 1) % LENGTHS.length] ?? "line";
      setLength(next);
    },
    toggleSpaces: () => setQuery({ spaces: !spaces }),
  };
}

const TABS: { value: Tab; text: string; groups: ExampleGroup[]; about: string }[] = [
  { value: "top", text: "Strongest", groups: ["top"], about: "The windows with its largest activations." },
  {
    value: "quantiles",
    text: "By strength",
    groups: ["q4", "q3", "q2", "q1", "q0"],
    about: "Drawn evenly from fifths of its activations above zero, strongest first.",
  },
  {
    value: "near_miss",
    text: "Near misses",
    groups: ["near_miss"],
    about: "Windows where a latent of nearly the same direction fires and this one does not.",
  },
  { value: "random", text: "Silent", groups: ["random"], about: "Windows drawn at random where it does not fire." },
];
const FIFTHS: Partial<Record<ExampleGroup, string>> = {
  q4: "Strongest fifth",
  q3: "Second fifth",
  q2: "Middle fifth",
  q1: "Fourth fifth",
  q0: "Weakest fifth",
};

/** The same of rows that stand in no text. */
const ABOUT_ROWS: Record<Tab, string> = {
  top: "The rows with its largest activations.",
  quantiles: "Drawn evenly from fifths of its activations above zero, strongest first.",
  near_miss: "Rows on which a latent of nearly the same direction fires and this one does not.",
  random: "Rows drawn at random on which it does not fire.",
};

export function Contexts({ page, view }: { page: LatentPage; view: ContextView }) {
  const { run, sae } = useShared();
  const ofRows = run.unit === "rows";
  const max = page.stats.max ?? Math.max(...page.examples.map((example) => example.value), 1e-9);
  const tabs = TABS.filter((tab) => page.examples.some((example) => tab.groups.includes(example.group)));
  const tab = tabs.find((entry) => entry.value === view.tab) ?? tabs[0];
  if (!tab) return null;
  return (
    <section class="card" aria-labelledby="contexts">
      <header>
        <h2 id="contexts">{ofRows ? "Rows" : "Contexts"}</h2>
        {!ofRows && <span class="row">
          <Choice
            name="Length of contexts"
            value={view.length}
            options={[
              { value: "line", text: "Line", help: "One line each, peaks in a column (c)" },
              { value: "passage", text: "Passage", help: "Some words on each side (c)" },
              { value: "whole", text: "Whole", help: "As the model read it (c)" },
            ]}
            onPick={setLength}
          />
          <button type="button" aria-pressed={view.spaces} title="Show spaces (w)" onClick={view.toggleSpaces}>
            a·b
          </button>
        </span>}
      </header>
      <div class="row between">
        <Choice name={ofRows ? "Which rows" : "Which contexts"} value={tab.value} options={tabs} onPick={(show) => setQuery({ show: show === "top" ? null : show })} />
        <Ramp max={max} />
      </div>
      <p class="small muted about">{ofRows ? ABOUT_ROWS[tab.value] : tab.about}</p>
      {tab.groups.map((group) => {
        const examples = page.examples.filter((example) => example.group === group);
        if (!examples.length) return null;
        const values = examples.map((example) => example.value);
        return (
          <div class="group" key={group}>
            {FIFTHS[group] && (
              <h3>
                {FIFTHS[group]}
                <span class="muted">
                  shown: {num(Math.min(...values))} to {num(Math.max(...values))}
                </span>
              </h3>
            )}
            <ul class={ofRows ? "row-examples" : `contexts${view.length === "line" ? " line" : ""}`}>
              {examples.map((example, i) => ofRows ? <RowExample key={example.context} example={example} max={max} sae={sae} /> : (
                <Row key={`${example.context}-${example.start + example.peak}-${i}`} example={example} number={i + 1} max={max} view={view} />
              ))}
            </ul>
          </div>
        );
      })}
    </section>
  );
}

function Row({ example, number, max, view }: { example: Example; number: number; max: number; view: ContextView }) {
  const peak = example.tokens[example.peak] ?? "";
  const silent = example.value === 0;
  return (
    <li>
      <span class="value" title={example.source}>
        {silent ? "0" : num(example.value)}
      </span>
      <Context
        run={example}
        values={dense(example.tokens.length, example.activations)}
        max={max}
        peak={example.peak}
        line={view.length === "line"}
        spaces={view.spaces}
        name={silent ? `Context ${number}, silent` : `Context ${number}, ${num(example.value)} at ${quoted(peak)}`}
        detail={(token) => `token ${example.start + token} of ${example.length}${example.source ? `, ${example.source}` : ""}`}
      />
    </li>
  );
}
