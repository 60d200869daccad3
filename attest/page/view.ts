/// <reference lib="dom" />
import type { Client } from "./client.ts";
import type { Session } from "./session.ts";

/** What every view gets. */
export interface Context {
  readonly client: Client;
  readonly session: Session;
  /** Says something to assistive technology without moving the focus. */
  announce(text: string): void;
  /** Asks for another token, e.g. when this one was refused. */
  askToken(): void;
}

/** Something that fills the main part of the page until another takes its place. */
export interface View {
  readonly title: string;
  readonly node: HTMLElement;
  /** Ends what the view has running. */
  stop(): void;
}
