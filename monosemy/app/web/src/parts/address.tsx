/** What an address asks for and this run doesn't have: the value, what there is instead, and a way to go on. */
import { setQuery } from "../router";
import { Message } from "./bits";

export interface Problem {
  /** The value's name in the address. */
  name: string;
  text: string;
}

export function AddressProblems({ problems }: { problems: Problem[] }) {
  return (
    <>
      {problems.map(({ name, text }) => (
        <Message bad key={name + text}>
          {text} <button type="button" onClick={() => setQuery({ [name]: null, offset: null })}>Leave it out</button>
        </Message>
      ))}
    </>
  );
}

/** The problem of a value that must be one of a few words; `fallback` is what the page does instead. */
export function unknownWord(query: URLSearchParams, name: string, words: readonly string[], fallback = words[0]): Problem[] {
  const value = query.get(name);
  if (value === null || words.includes(value)) return [];
  return [{ name, text: `The address has ${name}=${value}, and ${name} is one of ${words.join(", ")}. The page takes ${fallback}.` }];
}

/** The problem of a value that must be a number within bounds. */
export function wrongNumber(query: URLSearchParams, name: string, low: number, high: number, otherwise: string): Problem[] {
  const value = query.get(name);
  if (value === null || (value.trim() !== "" && Number(value) >= low && Number(value) <= high)) return [];
  return [{ name, text: `The address has ${name}=${value}, and ${name} is a number from ${low} to ${high}. ${otherwise}` }];
}
