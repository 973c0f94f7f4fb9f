/** The latents that are changed, each with what is done to it and how strongly. */
import { useState } from "preact/hooks";
import { api } from "../api";
import type { Edit, EditUnit, LatentPage, Operation, SaeEntry } from "../api";
import { num } from "../format";
import { Message, Named } from "../parts/bits";
import { to } from "../router";
import { useLoad, useSettled, useShared } from "../state";
import { OPERATIONS, UNITS, hasUnit, range } from "./settings";

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
        <OneEdit key={`${edit.latent}-${i}`} sae={sae} edit={edit} onSet={(values) => set(i, values)} onRemove={() => onChange(edits.filter((_, k) => k !== i))} />
      ))}
      {edits.length < run.limits.edits && (
        <Add sae={sae} latents={edits.map((edit) => edit.latent)} onAdd={(latent) => onChange([...edits, { latent, operation: "set", value: 1.5, unit: "max" }])} />
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

function OneEdit({ sae, edit, onSet, onRemove }: { sae: SaeEntry; edit: Edit; onSet: (values: Partial<Edit>) => void; onRemove: () => void }) {
  const info = useLoad((signal) => about(sae, edit.latent, signal), [sae, edit.latent]).value;
  const [low, high, step] = range(edit);
  const valued = edit.operation !== "ablate";
  const name = `latent ${edit.latent}`;
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
      <div class="knobs">
        <select aria-label={`What to do to ${name}`} value={edit.operation} title={OPERATIONS.find((option) => option.value === edit.operation)?.help} onChange={(event) => onSet({ operation: event.currentTarget.value as Operation })}>
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
          <input type="number" aria-label={`Strength for ${name}, exactly`} step="any" value={edit.value} onChange={(event) => onSet({ value: Number(event.currentTarget.value) || 0 })} />
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

/** Adds a latent by its number or by words of its label. */
function Add({ sae, latents, onAdd }: { sae: SaeEntry; latents: number[]; onAdd: (latent: number) => void }) {
  const [text, setText] = useState("");
  const settled = useSettled(text.trim(), 150);
  const number = /^\d+$/.test(settled) ? Number(settled) : null;
  const words = settled !== "" && number === null && sae.has_features;
  const results = useLoad(words ? (signal) => api.search(sae.site, sae.name, settled, 8, signal) : null, [sae, settled]);
  const add = (latent: number) => {
    onAdd(latent);
    setText("");
  };
  const outside = number !== null && number >= sae.d_sae;
  return (
    <div class="edit">
      <label class="field">
        <span>{latents.length ? "Another latent" : "Latent to steer"}</span>
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
