/** Saves what fires in a text, or what differs between two, as a file: every firing with its label and how unusual it is. */
import { useState } from "preact/hooks";
import { api } from "../api";
import type { EvidenceBody, SaeEntry } from "../api";
import { sentence } from "../state";
import { Message } from "./bits";

interface SaveProps {
  /** What is saved: the file's name without "the". */
  name: "the evidence" | "the differences";
  sae: SaeEntry;
  body: Omit<EvidenceBody, "format">;
}

export function Save({ name, sae, body }: SaveProps) {
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState("");
  const save = async (format: string) => {
    setBusy(format);
    setError(null);
    try {
      const address = URL.createObjectURL(await api.evidence(sae.site, sae.name, { ...body, format }));
      const link = document.createElement("a");
      link.href = address;
      link.download = `${name.slice(4)}.${format}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    } catch (reason) {
      setError(sentence(reason));
    }
    setBusy("");
  };
  return (
    <div class="row small">
      <span class="muted">Save {name}:</span>
      {["csv", "json", "html"].map((format) => (
        <button type="button" key={format} disabled={busy !== ""} onClick={() => void save(format)}>
          {format.toUpperCase()}
        </button>
      ))}
      {error && <Message bad>{error}</Message>}
    </div>
  );
}
