/** Bookmarks and notes of all SAEs of the run. */
import { useEffect } from "preact/hooks";
import type { Note } from "../api";
import { saeTitle } from "../format";
import { ROW_KEYS, useKeys } from "../keys";
import { Choice, Message, Named } from "../parts/bits";
import { NoteBox } from "../parts/note";
import { Term } from "../parts/term";
import { setQuery, to, useRoute } from "../router";
import { sameSae, useShared } from "../state";

type Kind = "all" | "bookmarks" | "notes";

export function NotesPage() {
  const { run, notes, notesState, readNotes } = useShared();
  const { query } = useRoute();
  const kind = (["bookmarks", "notes"] as const).find((name) => name === query.get("show")) ?? "all";
  useEffect(() => {
    document.title = "Notes · monosemy";
    readNotes();
  }, []);
  useKeys(ROW_KEYS);
  const listing = notes
    .filter((note) => kind === "all" || (kind === "bookmarks" ? note.bookmark : note.text !== ""))
    .toSorted((a, b) => b.changed.localeCompare(a.changed));
  const title = (note: Note) => {
    const sae = run.saes.find((entry) => sameSae(entry, note));
    return sae ? `${saeTitle(sae)} · ${note.site}` : `${note.site}/${note.name} (no longer in this run)`;
  };
  return (
    <>
      <div class="head">
        <div>
          <h1>Notes</h1>
          <p class="lead">
            What you noted of <Term word="latent">latents</Term>, kept in <code>notes.json</code> in the run's folder, apart from everything that can be built anew.
          </p>
        </div>
        <Choice
          name="Show"
          value={kind}
          options={[
            { value: "all", text: "All" },
            { value: "bookmarks", text: "Bookmarks" },
            { value: "notes", text: "Notes" },
          ]}
          onPick={(show: Kind) => setQuery({ show: show === "all" ? null : show })}
        />
      </div>
      <section class="card" aria-label="Bookmarks and notes">
        {notesState.error && (
          <Message bad>
            {notesState.error} <button type="button" onClick={readNotes}>Read the notes again</button>
          </Message>
        )}
        {!notesState.loaded ? null : listing.length === 0 ? (
          <p class="empty">
            Nothing here yet. On a latent's page, <kbd>b</kbd> bookmarks it, and there is a box for a note.
          </p>
        ) : (
          <ul class="notes">
            {listing.map((note) => (
              <li key={`${note.site}/${note.name}/${note.latent}`}>
                <div class="row between">
                  <a data-row class="strong" href={to.latent(note.site, note.name, note.latent)}>
                    {note.bookmark && <span aria-label="bookmarked">★ </span>}
                    <Named latent={note.latent} label={note.label} />
                  </a>
                  <span class="small muted">
                    {title(note)} · {new Date(note.changed).toLocaleString()}
                  </span>
                </div>
                <NoteBox sae={note} latent={note.latent} bare />
              </li>
            ))}
          </ul>
        )}
      </section>
    </>
  );
}
