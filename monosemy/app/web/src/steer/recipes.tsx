/** Steering that is worth keeping: recipes by name, kept in the run, and the same as a command for the terminal. */
import { useState } from "preact/hooks";
import { api } from "../api";
import type { Recipes as RecipeList, SaeEntry, SteeringRecipe } from "../api";
import { shellQuoted } from "../format";
import { Message } from "../parts/bits";
import { explain } from "../parts/term";
import { go, to } from "../router";
import { sentence, useLoad, useShared } from "../state";
import { editText, recipeOf, recipeQuery } from "./settings";
import type { Settings } from "./settings";

export function Recipes({ settings, sae }: { settings: Settings; sae: SaeEntry }) {
  const { run, model } = useShared();
  const loaded = useLoad((signal) => api.recipes(signal), []);
  const [changed, setChanged] = useState<RecipeList | null>(null);
  const [name, setName] = useState("");
  const [error, setError] = useState<string | null>(null);
  const { recipes, problems } = changed ?? loaded.value ?? { recipes: [], problems: [] };
  const change = (answer: Promise<RecipeList>) =>
    answer.then(
      (next) => {
        setChanged(next);
        setError(null);
      },
      (reason: unknown) => setError(sentence(reason)),
    );
  const save = () => {
    void change(api.keepRecipe(recipeOf(name.trim(), settings, sae, model.name)));
    setName("");
  };
  const taken = recipes.some((recipe) => recipe.name === name.trim());
  if (!settings.edits.length && !recipes.length && !problems.length) return null;
  return (
    <details class="data" open={recipes.length > 0}>
      <summary>{recipes.length ? `Recipes (${recipes.length})` : "Keep this as a recipe"}</summary>
      <div class="stack tight more">
        {recipes.length > 0 && (
          <ul class="list">
            {recipes.map((recipe) => (
              <OneRecipe key={recipe.name} recipe={recipe} onForget={() => void change(api.forgetRecipe(recipe.name))} />
            ))}
          </ul>
        )}
        {[...problems, ...(error ? [error] : [])].map((text) => <Message bad key={text}>{text}</Message>)}
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
              <button type="button" disabled={!name.trim()} onClick={save}>{taken ? "Replace" : "Keep"}</button>
            </div>
            <p class="small muted">Kept in the run, also for <code>monosemy steer --recipe NAME</code>. These settings in the terminal:</p>
            <p class="small command"><code>{command(run.path, settings, sae)}</code></p>
          </>
        )}
      </div>
    </details>
  );
}

function OneRecipe({ recipe, onForget }: { recipe: SteeringRecipe; onForget: () => void }) {
  const [site = "", name = ""] = recipe.sae.split("/");
  const saes = new Set(recipe.edits.map((edit) => edit.sae));
  const about = [recipe.about, `${recipe.edits.length} ${recipe.edits.length === 1 ? "edit" : "edits"} of ${saes.size === 1 ? [...saes][0] : `${saes.size} SAEs`}`];
  return (
    <li>
      <button type="button" class="quiet pick" {...explain(about.filter(Boolean).join(" "))} onClick={() => go(to.steer(site, name, recipeQuery(recipe)))}>{recipe.name}</button>
      <button type="button" class="quiet icon" aria-label={`Forget ${recipe.name}`} title="Forget" onClick={onForget}>×</button>
    </li>
  );
}

function command(run: string, settings: Settings, sae: SaeEntry): string {
  const edits = settings.edits.map((edit) => `--edit ${editText(edit)}`).join(" ");
  const instruction = settings.instruction.trim() ? ` --instruction ${shellQuoted(settings.instruction)}` : "";
  return `monosemy steer ${shellQuoted(run)} --sae ${sae.site}/${sae.name} ${edits} --prompt ${shellQuoted(settings.prompt)}${instruction}${settings.chat === false ? " --plain" : ""} --tokens ${settings.n_tokens}${settings.temperature ? ` --temperature ${settings.temperature} --seed ${settings.seed}` : ""}`;
}
