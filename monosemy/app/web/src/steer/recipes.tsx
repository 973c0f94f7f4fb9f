/** Steering that is worth keeping: recipes by name, kept by this browser, and the same as a command for the terminal. */
import { useState } from "preact/hooks";
import type { SaeEntry } from "../api";
import { shellQuoted } from "../format";
import { go, to } from "../router";
import { remember, remembered, useShared } from "../state";
import { written } from "./settings";
import type { Settings } from "./settings";

interface Recipe {
  name: string;
  /** `site/name` of the SAE. */
  sae: string;
  address: string;
}

function stored(run: string): Recipe[] {
  try {
    const recipes: unknown = JSON.parse(remembered(`recipes.${run}`) ?? "[]");
    return Array.isArray(recipes) ? recipes.filter((entry: Recipe) => typeof entry?.name === "string" && typeof entry.address === "string" && entry.address.startsWith("/steer/")) : [];
  } catch {
    return []; // something else wrote there
  }
}

export function Recipes({ settings, sae }: { settings: Settings; sae: SaeEntry }) {
  const { run } = useShared();
  const [recipes, setRecipes] = useState(() => stored(run.path));
  const [name, setName] = useState("");
  const keep = (next: Recipe[]) => {
    setRecipes(next);
    remember(`recipes.${run.path}`, JSON.stringify(next));
  };
  const save = () => {
    const values = Object.fromEntries(Object.entries(written(settings)).flatMap(([key, value]) => (value === null || value === "" ? [] : [[key, `${value}`]])));
    const recipe = { name: name.trim(), sae: `${sae.site}/${sae.name}`, address: to.steer(sae.site, sae.name, values) };
    keep([...recipes.filter((other) => other.name !== recipe.name), recipe]);
    setName("");
  };
  if (!settings.edits.length && !recipes.length) return null;
  return (
    <details class="data" open={recipes.length > 0}>
      <summary>{recipes.length ? `Recipes (${recipes.length})` : "Keep this as a recipe"}</summary>
      <div class="stack tight more">
        {recipes.length > 0 && (
          <ul class="list">
            {recipes.map((recipe) => (
              <li key={recipe.name}>
                <button type="button" class="quiet pick" title={recipe.sae} onClick={() => go(recipe.address)}>{recipe.name}</button>
                <button type="button" class="quiet icon" aria-label={`Forget ${recipe.name}`} title="Forget" onClick={() => keep(recipes.filter((other) => other !== recipe))}>×</button>
              </li>
            ))}
          </ul>
        )}
        {settings.edits.length > 0 && (
          <>
            <div class="row end">
              <label class="field wide">
                <span>Name</span>
                <input
                  value={name}
                  maxLength={80}
                  onInput={(event) => setName(event.currentTarget.value)}
                  onKeyDown={(event) => {
                    if (event.key !== "Enter") return;
                    event.preventDefault(); // it would write an answer
                    if (name.trim()) save();
                  }}
                />
              </label>
              <button type="button" disabled={!name.trim()} onClick={save}>Keep</button>
            </div>
            <p class="small muted">Kept by this browser. In the terminal:</p>
            <p class="small command"><code>{command(run.path, settings, sae)}</code></p>
          </>
        )}
      </div>
    </details>
  );
}

function command(run: string, settings: Settings, sae: SaeEntry): string {
  const edits = settings.edits.map((edit) => `--edit ${edit.latent}:${edit.operation}:${edit.value}:${edit.unit}`).join(" ");
  const instruction = settings.instruction.trim() ? ` --instruction ${shellQuoted(settings.instruction)}` : "";
  return `monosemy steer ${shellQuoted(run)} --sae ${sae.site}/${sae.name} ${edits} --prompt ${shellQuoted(settings.prompt)}${instruction}${settings.chat === false ? " --plain" : ""} --tokens ${settings.n_tokens}${settings.temperature ? ` --temperature ${settings.temperature} --seed ${settings.seed}` : ""}`;
}
