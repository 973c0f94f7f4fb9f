/** A number to type in. It holds once it is complete (after Enter, Tab, a click elsewhere or the field's arrows), or
 * with `live` as soon as what was typed is a number. */
import { useState } from "preact/hooks";

interface NumberFieldProps {
  min?: number;
  max?: number;
  /** The distance of two valid numbers; "any" for all. */
  step?: number | "any";
  placeholder?: string;
  live?: boolean;
  /** The field's name where no label stands around it. */
  "aria-label"?: string;
  value: number | null;
  /** Receives null where the field was emptied. */
  onNumber: (value: number | null) => void;
}

export function NumberField({ value, live, onNumber, ...attributes }: NumberFieldProps) {
  // What is being typed is state: a page drawn anew meanwhile, by data that arrive, must not put the old value back.
  const [draft, setDraft] = useState<string | null>(null);
  return (
    <input
      {...attributes}
      type="number"
      value={draft ?? value ?? ""}
      onInput={({ currentTarget: { value: text } }) => {
        setDraft(text);
        if (live && text !== "") onNumber(Number(text)); // "-" alone is "" to the browser
      }}
      onChange={({ currentTarget: { value: text } }) => {
        setDraft(null);
        onNumber(text === "" ? null : Number(text));
      }}
      onBlur={() => setDraft(null)}
    />
  );
}
