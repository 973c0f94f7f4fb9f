/** The bar at the top: pages, the SAE at hand, the model's state, colour scheme, help. */
import { useState } from "preact/hooks";
import { api } from "../api";
import { saeOption } from "../format";
import { go, to } from "../router";
import { remember, useShared } from "../state";

const SCHEMES = ["system", "light", "dark"] as const;
type Scheme = (typeof SCHEMES)[number];

export function Top({ page, onHelp }: { page: string; onHelp: () => void }) {
  const { run, sae } = useShared();
  const at = (name: string) => (page === name ? ("page" as const) : undefined);
  return (
    <header class="top">
      <a class="brand" href={to.overview()}>
        <img src="/static/icon.svg" alt="" />
        <span class="word">monosemy</span>
      </a>
      <nav class="tabs" aria-label="Pages">
        <a href={to.overview()} aria-current={at("")}>Overview</a>
        <a href={to.latents(sae.site, sae.name)} aria-current={at("latents") ?? at("latent")}>Latents</a>
        <a href={to.search(sae.site, sae.name)} aria-current={at("search")}>Search</a>
        <a href={to.compare()} aria-current={at("compare")}>Compare</a>
        {run.unit !== "rows" && <a href={to.steer(sae.site, sae.name)} aria-current={at("steer")}>Steer</a>}
        {run.has_graphs && <a href={to.graphs()} aria-current={at("graphs") ?? at("graph")}>Graphs</a>}
        <a href={to.notes()} aria-current={at("notes")}>Notes</a>
      </nav>
      <div class="tools">
        <SaePicker page={page} />
        {run.unit !== "rows" && <ModelButton />}
        <SchemeButton />
        <button type="button" class="quiet icon" aria-label="Keys and help" title="Keys and help (?)" onClick={onHelp}>
          ?
        </button>
      </div>
    </header>
  );
}

function SaePicker({ page }: { page: string }) {
  const { run, sae } = useShared();
  const sites = [...new Set(run.saes.map((entry) => entry.site))];
  const pick = (event: Event) => {
    const entry = run.saes[Number((event.target as HTMLSelectElement).value)];
    if (!entry) return;
    if (page === "search") go(to.search(entry.site, entry.name) + location.search);
    else if (page === "steer") go(to.steer(entry.site, entry.name));
    else go(to.latents(entry.site, entry.name));
  };
  return (
    <select aria-label="SAE" title="The SAE whose latents are shown" value={run.saes.indexOf(sae)} onChange={pick}>
      {sites.map((site) => (
        <optgroup label={site} key={site}>
          {run.saes.map((entry, i) =>
            entry.site === site ? (
              <option value={i} key={entry.name}>
                {saeOption(entry)}
              </option>
            ) : null,
          )}
        </optgroup>
      ))}
    </select>
  );
}

const STATES = { absent: "not loaded", loading: "loading", ready: "ready", failed: "failed" };

function ModelButton() {
  const { model, watchModel } = useShared();
  const load = () => {
    void api.loadModel().then(watchModel, watchModel);
    watchModel();
  };
  const seconds = model.state === "loading" && model.seconds !== null ? ` ${Math.round(model.seconds)} s` : "";
  const text = `Model ${STATES[model.state]}${seconds}`;
  const help = model.message || (model.state === "absent" ? `${model.name}: loads when text is tested or steered; click to load it now` : model.name);
  return (
    <button
      type="button"
      class="quiet model"
      title={help}
      aria-label={text}
      disabled={model.state === "ready" || model.state === "loading"}
      onClick={load}
    >
      <span class={`dot ${model.state}${model.state === "loading" ? " busy" : ""}`} />
      <span class="name">{text}</span>
    </button>
  );
}

function SchemeButton() {
  const [scheme, setScheme] = useState<Scheme>(() => (document.documentElement.dataset.theme as Scheme | undefined) ?? "system");
  const turn = () => {
    const next = SCHEMES[(SCHEMES.indexOf(scheme) + 1) % SCHEMES.length] ?? "system";
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    remember("theme", next);
    setScheme(next);
  };
  const icon = { system: "◐", light: "○", dark: "●" }[scheme];
  return (
    <button type="button" class="quiet icon" aria-label={`Colours: ${scheme}`} title={`Colours: ${scheme}`} onClick={turn}>
      {icon}
    </button>
  );
}
