/** Bookmarks and notes, kept by the server in a file of their own beside the run. */
import { useState } from "preact/hooks";
import { ApiError, api } from "../api";
import type { NoteChange } from "../api";
import { sameSae, sentence, useShared } from "../state";
import { Message } from "./bits";

interface Named {
  site: string;
  name: string;
}

/**
 * Texts that were typed and not saved, by latent: they wait here while another latent is looked at. `over` is the saved
 * text that was in view when the typing began.
 */
const drafts = new Map<string, { text: string; over: string }>();
addEventListener("beforeunload", (event) => {
  if (drafts.size) event.preventDefault();
});

function useNote(sae: Named, latent: number) {
  const { notes, setNotes, readNotes } = useShared();
  const note = notes.find((entry) => sameSae(entry, sae) && entry.latent === latent);
  const [failed, setFailed] = useState<{ latent: number; error: string } | null>(null);
  /** Only what is changed is sent: the server knows the rest better than this page. */
  const write = async (values: Pick<NoteChange, "bookmark" | "text" | "before">) => {
    setFailed(null);
    try {
      const { site, name } = sae;
      setNotes(await api.putNote({ site, name, latent, ...values }));
      return true;
    } catch (reason) {
      setFailed({ latent, error: sentence(reason) });
      if (reason instanceof ApiError && reason.status === 409) readNotes();
      return false;
    }
  };
  return { note, write, error: failed?.latent === latent ? failed.error : null };
}

export function useBookmark(sae: Named, latent: number) {
  const { note, write, error } = useNote(sae, latent);
  const on = note?.bookmark ?? false;
  return { on, error, toggle: () => void write({ bookmark: !on }) };
}

export function NoteBox({ sae, latent, bare }: { sae: Named; latent: number; bare?: boolean }) {
  const { run, notesState, readNotes } = useShared();
  const { note, write, error } = useNote(sae, latent);
  const [saving, setSaving] = useState(false);
  const [, draw] = useState({});
  const key = `${sae.site}/${sae.name}/${latent}`;
  const saved = note?.text ?? "";
  const draft = drafts.get(key);
  const text = draft?.text ?? saved;
  const changed = text !== saved;
  const loaded = notesState.loaded;
  const save = async () => {
    setSaving(true);
    if ((await write({ text, before: saved })) && drafts.get(key)?.text === text) drafts.delete(key);
    setSaving(false);
  };
  const id = `note-${latent}`;
  const form = (
    <form
      class="stack tight"
      onSubmit={(event) => {
        event.preventDefault();
        void save();
      }}
    >
      <textarea
        id={id}
        aria-label={`Note on latent ${latent}`}
        rows={bare ? 2 : 3}
        maxLength={run.limits.note_characters}
        placeholder={loaded ? "What you make of it" : ""}
        disabled={!loaded}
        value={text}
        onInput={(event) => {
          if (event.currentTarget.value === saved) drafts.delete(key);
          else drafts.set(key, { text: event.currentTarget.value, over: draft?.over ?? saved });
          draw({});
        }}
      />
      {changed && draft && draft.over !== saved && (
        <p class="small muted">
          Meanwhile the note was saved elsewhere{saved ? ": " : " as empty."}
          {saved && <q>{saved}</q>}
        </p>
      )}
      <div class="row">
        <button type="submit" disabled={!changed || saving || !loaded}>
          Save note
        </button>
        <span class="small muted" role="status">
          {changed ? "Not saved yet" : saved ? "Saved in the run's folder" : ""}
        </span>
        {error && <Message bad>{error}</Message>}
        {notesState.error && (
          <Message bad>
            {notesState.error} <button type="button" onClick={readNotes}>Read the notes again</button>
          </Message>
        )}
      </div>
    </form>
  );
  if (bare) return form;
  return (
    <section class="card" aria-labelledby="note">
      <h2 id="note">Note</h2>
      {form}
    </section>
  );
}
