/** The latents that are changed, each with what is done to it and how strongly. */
import { useState } from "preact/hooks";
import { api } from "../api";
import type { Edit, EditUnit, LatentPage, Operation, SaeEntry } from "../api";
import { num, saeOption, saeTitle } from "../format";
import { Message, Named } from "../parts/bits";
import { NumberField } from "../parts/number";
import { explain } from "../parts/term";
import { to } from "../router";
import { useLoad, useSettled, useShared } from "../state";
import { OPERATIONS, UNITS, editable, hasUnit, labelOf, range, saeOf } from "./settings";

interface EditsProps {
  sae: SaeEntry;
  edits: Edit[];
  onChange: (edits: Edit[]) => void;
}

export function Edits({ sae, edits, onChange }: EditsProps) {
  const { run } = useShared();
  const set = (i: number, values: Partial<Edit>) => onChange(edits.map((edit, k) => (k === i ? { ...edit, ...values } : edit)));
  return (
    <div>
      {edits.map((edit, i) => (
        <OneEdit
          key={`${edit.sae}-${edit.latent}-${i}`}
          sae={saeOf(edit, sae, run.saes) ?? sae}
          other={edit.sae !== ""}
          edit={edit}
          onSet={(values) => set(i, values)}
          onRemove={() => onChange(edits.filter((_, k) => k !== i))}
        />
      ))}
      {edits.length < run.limits.edits && (
        <Add own={sae} edits={edits} onAdd={(latent, from) => onChange([...edits, { latent, operation: "set", value: 1.5, unit: "max", sae: from }])} />
      )}
    </div>
  );
}

/** A latent's label, and the maximum that the server multiplies: without features there is only the evaluation's. */
async function about(sae: SaeEntry, latent: number, signal: AbortSignal): Promise<{ label: string; max: LatentPage["steering_max"] }> {
  if (sae.has_features) {
    const { label, steering_max } = await api.latent(sae.site, sae.name, latent, 1, signal);
    return { label: label.explanation?.text || label.text, max: steering_max };
  }
  const { columns, rows } = await api.latents(sae.site, sae.name, { sort: "latent", offset: latent, limit: 1 }, signal);
  const value = rows[0]?.values[columns.indexOf("max")];
  return { label: "", max: value ? { value, text: "validation" } : null };
}

interface OneEditProps {
  sae: SaeEntry;
  /** Whether the SAE is another than the page's. */
  other: boolean;
  edit: Edit;
  onSet: (values: Partial<Edit>) => void;
  onRemove: () => void;
}

function OneEdit({ sae, other, edit, onSet, onRemove }: OneEditProps) {
  const info = useLoad((signal) => about(sae, edit.latent, signal), [sae, edit.latent]).value;
  const [low, high, step] = range(edit);
  const valued = edit.operation !== "ablate";
  const name = `latent ${edit.latent}${other ? ` of ${labelOf(sae)}` : ""}`;
  return (
    <fieldset class="edit">
      <legend class="sr">Change of {name}</legend>
      <div class="line1">
        <a href={to.latent(sae.site, sae.name, edit.latent)}>
          <Named latent={edit.latent} label={info?.label ?? ""} />
        </a>
        <button type="button" class="quiet icon" aria-label={`Remove ${name}`} title="Remove" onClick={onRemove}>
          ×
        </button>
      </div>
      {other && <p class="small muted">of {saeTitle(sae)} at {sae.site}</p>}
      <div class="knobs">
        <select aria-label={`What to do to ${name}`} value={edit.operation} {...explain(OPERATIONS.find((option) => option.value === edit.operation)?.help)} onChange={(event) => onSet({ operation: event.currentTarget.value as Operation })}>
          {OPERATIONS.map((option) => (
            <option value={option.value} key={option.value}>{option.text}</option>
          ))}
        </select>
        {hasUnit(edit.operation) ? (
          <select aria-label={`Unit for ${name}`} value={edit.unit} onChange={(event) => onSet({ unit: event.currentTarget.value as EditUnit })}>
            {UNITS.map((option) => (
              <option value={option.value} key={option.value}>{option.text}</option>
            ))}
          </select>
        ) : (
          <span />
        )}
      </div>
      {valued && (
        <div class="strength">
          <input type="range" aria-label={`Strength for ${name}`} min={low} max={high} step={step} value={edit.value} onInput={(event) => onSet({ value: Number(event.currentTarget.value) })} />
          <NumberField live aria-label={`Strength for ${name}, exactly`} step="any" value={edit.value} onNumber={(value) => onSet({ value: value ?? 0 })} />
        </div>
      )}
      {valued && edit.unit === "max" && hasUnit(edit.operation) && info && (
        <p class="small muted">
          {info.max
            ? `${num(edit.value, 2)} × ${num(info.max.value)} = ${num(edit.value * info.max.value)}, its maximum on the ${info.max.text} text`
            : "It never fired, so it has no maximum: choose another unit."}
        </p>
      )}
    </fieldset>
  );
}

/** Adds a latent of the page's SAE, or of another one of the run, by its number or by words of its label. */
function Add({ own, edits, onAdd }: { own: SaeEntry; edits: Edit[]; onAdd: (latent: number, sae: string) => void }) {
  const { run } = useShared();
  const [text, setText] = useState("");
  const [from, setFrom] = useState("");
  const choices = editable(run.saes);
  const sae = saeOf({ sae: from }, own, run.saes) ?? own;
  const latents = edits.filter((edit) => edit.sae === from).map((edit) => edit.latent);
  const settled = useSettled(text.trim(), 150);
  const number = /^\d+$/.test(settled) ? Number(settled) : null;
  const words = settled !== "" && number === null && sae.has_features;
  const results = useLoad(words ? (signal) => api.search(sae.site, sae.name, settled, 8, signal) : null, [sae, settled]);
  const add = (latent: number) => {
    onAdd(latent, from);
    setText("");
  };
  const outside = number !== null && number >= sae.d_sae;
  return (
    <div class="edit">
      {choices.length > 1 && (
        <label class="field">
          <span>Of the SAE</span>
          <select value={from || labelOf(own)} onChange={(event) => setFrom(event.currentTarget.value === labelOf(own) ? "" : event.currentTarget.value)}>
            {[...new Set(choices.map((choice) => choice.site))].map((site) => (
              <optgroup label={site} key={site}>
                {choices.filter((choice) => choice.site === site).map((choice) => (
                  <option key={labelOf(choice)} value={labelOf(choice)}>{saeOption(choice)}</option>
                ))}
              </optgroup>
            ))}
          </select>
        </label>
      )}
      <label class="field">
        <span>{edits.length ? "Another latent" : "Latent to steer"}</span>
        <input type="search" data-search placeholder={sae.has_features ? "Number, or words of its label" : "Number"} value={text} onInput={(event) => setText(event.currentTarget.value)} />
      </label>
      {outside && <Message bad>There is no latent {number}: this SAE has 0 to {sae.d_sae - 1}.</Message>}
      {number !== null && !outside && !latents.includes(number) && (
        <button type="button" onClick={() => add(number)}>Add latent {number}</button>
      )}
      {words && results.value && (
        <ul class="list">
          {results.value.hits.filter((hit) => !latents.includes(hit.latent)).map((hit) => (
            <li key={hit.latent}>
              <button type="button" class="quiet pick" onClick={() => add(hit.latent)}>
                <span><Named latent={hit.latent} label={hit.label} /></span>
              </button>
            </li>
          ))}
          {results.value.hits.length === 0 && <li class="muted">No label has “{settled}”.</li>}
        </ul>
      )}
    </div>
  );
}
