// As much of a shell's grammar as documents use: enough to find every simple command of a block, nothing is ever run.

/** One simple command: its words, quotes taken away. `line` counts from 0 within the text. */
export interface SimpleCommand {
  readonly words: readonly string[];
  readonly line: number;
  /** One of the words is a variable that nothing here sets, without quotes: it may stand for several, or none. */
  readonly open: boolean;
}

interface Word {
  readonly text: string;
  /** It had quotes: a variable in it is one word. */
  readonly quoted: boolean;
}

/**
 * Every simple command of a script, those within `$(...)` and parentheses too, in the order of their beginnings.
 * @param variables what earlier blocks of the document set; added to
 */
export function commandsIn(script: string, variables = new Map<string, string>()): readonly SimpleCommand[] {
  return new ShellText(script, variables).commands();
}

const OPERATORS = new Set(["\n", ";", "&", "|", "(", ")"]);
const KEYWORDS = new Set([
  "if",
  "then",
  "else",
  "elif",
  "fi",
  "while",
  "until",
  "do",
  "done",
  "!",
  "{",
  "}",
  "exec",
  "time",
  "sudo",
  "$",
]);

class ShellText {
  readonly #script: string;
  readonly #found: SimpleCommand[] = [];
  readonly #variables: Map<string, string>;
  #at = 0;
  #words: Word[] = [];
  #line = 0;
  #heredocs: string[] = [];

  constructor(script: string, variables: Map<string, string>) {
    this.#script = script;
    this.#variables = variables;
  }

  commands(): readonly SimpleCommand[] {
    while (this.#at < this.#script.length) this.#step();
    this.#endCommand();
    return this.#found;
  }

  #step(): void {
    const character = this.#script[this.#at] ?? "";
    if (character === " " || character === "\t") this.#at += 1;
    else if (this.#script.startsWith("\\\n", this.#at)) this.#at += 2;
    else if (character === "#") this.#skipComment();
    else if (character === "\n") this.#endLine();
    else if (OPERATORS.has(character)) {
      this.#endCommand();
      this.#at += 1;
    } else if (/^\d*[<>]/.test(this.#script.slice(this.#at))) this.#redirection();
    else this.#word();
  }

  #skipComment(): void {
    const end = this.#script.indexOf("\n", this.#at);
    this.#at = end < 0 ? this.#script.length : end;
  }

  #endLine(): void {
    this.#endCommand();
    this.#at += 1;
    for (const mark of this.#heredocs.splice(0)) {
      const end = this.#script.indexOf(`\n${mark}\n`, this.#at - 1);
      this.#at = end < 0 ? this.#script.length : end + mark.length + 2;
    }
  }

  #redirection(): void {
    const [operator = "<"] = /^\d*(?:<<-?|>>|[<>]&?)/.exec(this.#script.slice(this.#at)) ?? [];
    this.#at += operator.length;
    while (this.#script[this.#at] === " ") this.#at += 1;
    const { text } = this.#readWord();
    if (operator.includes("<<")) this.#heredocs.push(text);
  }

  #word(): void {
    if (this.#words.length === 0) this.#line = this.#script.slice(0, this.#at).split("\n").length - 1;
    this.#words.push(this.#readWord());
  }

  #readWord(): Word {
    let text = "";
    let quoted = false;
    for (;;) {
      const character = this.#script[this.#at] ?? "";
      if (character === "" || /[ \t\n;&|()<>]/.test(character)) break;
      if (character === "'" || character === '"') {
        quoted = true;
        text += this.#quotes(character);
      } else if (this.#script.startsWith("$(", this.#at)) text += this.#substitution();
      else if (character === "\\") {
        if (this.#script[this.#at + 1] !== "\n") text += this.#script[this.#at + 1] ?? "";
        this.#at += 2;
      } else {
        text += character;
        this.#at += 1;
      }
    }
    return { text, quoted };
  }

  #quotes(quote: string): string {
    let text = "";
    this.#at += 1;
    while (this.#at < this.#script.length && this.#script[this.#at] !== quote) {
      if (quote === '"' && this.#script.startsWith("$(", this.#at)) text += this.#substitution();
      else {
        if (quote === '"' && this.#script[this.#at] === "\\") this.#at += 1;
        text += this.#script[this.#at] ?? "";
        this.#at += 1;
      }
    }
    this.#at += 1;
    return text;
  }

  /** What a command prints is one word of no known text. */
  #substitution(): string {
    let depth = 0;
    const start = this.#at + 2;
    for (; this.#at < this.#script.length; this.#at++) {
      if (this.#script[this.#at] === "(") depth += 1;
      if (this.#script[this.#at] === ")" && --depth === 0) break;
    }
    const line = this.#script.slice(0, start).split("\n").length - 1;
    for (const inner of commandsIn(this.#script.slice(start, this.#at), this.#variables))
      this.#found.push({ ...inner, line: line + inner.line });
    this.#at += 1;
    return "$()";
  }

  #endCommand(): void {
    const words = this.#words.splice(0);
    while (words[0] !== undefined && (KEYWORDS.has(words[0].text) || this.#assigned(words[0]))) words.shift();
    const expanded = words.flatMap((word) => this.#expand(word));
    const open = words.some(
      ({ text, quoted }) => !quoted && /^\$\w+$/.test(text) && !this.#variables.has(text.slice(1)),
    );
    if (expanded.length > 0) this.#found.push({ words: expanded, line: this.#line, open });
  }

  #assigned({ text }: Word): boolean {
    const [, name, value = ""] = /^([A-Za-z_]\w*)=(.*)$/s.exec(text) ?? [];
    if (name !== undefined) this.#variables.set(name, value);
    return name !== undefined;
  }

  /** A variable that the text sets and does not quote is as many words as it has; one that names itself stays. */
  #expand({ text, quoted }: Word, depth = 0): readonly string[] {
    const [, name = ""] = /^\$(\w+)$/.exec(text) ?? [];
    const value = quoted || depth > 4 ? undefined : this.#variables.get(name);
    if (value === undefined) return [text];
    const words = value.split(/\s+/).filter((word) => word !== "");
    return words.flatMap((word) => this.#expand({ text: word, quoted: false }, depth + 1));
  }
}
