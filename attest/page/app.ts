/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { checkView } from "./check-view.ts";
import { createClient } from "./client.ts";
import { button, h, replace } from "./dom.ts";
import { fleetView } from "./fleet-view.ts";
import { machineView } from "./machine-view.ts";
import { type Route, routeOf } from "./routes.ts";
import { createSession } from "./session.ts";
import { signInView } from "./sign-in-view.ts";
import type { Context, View } from "./view.ts";

/** Puts the page together: one view at a time, chosen by the address, with the focus on its heading when it is entered. */
export function startApp(): void {
  const [main, account, announcer] = [part("main"), part("account"), part("announcer")];
  const session = createSession(window.sessionStorage);
  let view: View | null = null;
  let route: Route = { kind: "fleet" };
  let refused = false;

  const context: Context = {
    session,
    client: createClient(session),
    announce(text) {
      // Said again even when it is the same text as before.
      announcer.textContent = "";
      window.setTimeout(() => replace(announcer, text), 50);
    },
    askToken() {
      refused = session.token !== null;
      session.signOut();
      show(true);
    },
  };
  const show = (moveFocus: boolean) => {
    // An address that is not the page's to answer leaves the view as it is.
    route = routeOf(window.location.hash) ?? route;
    view?.stop();
    view = viewOf(context, route, refused, () => {
      refused = false;
      show(true);
    });
    document.title = `${view.title} \u2013 IronClaw verifier`;
    replace(main, view.node);
    drawAccount();
    markNavigation(route);
    if (!moveFocus) return;
    window.scrollTo(0, 0);
    main.querySelector("h1")?.focus({ preventScroll: true });
  };
  const drawAccount = () => {
    const out = button("Sign out", () => {
      session.signOut();
      refused = false;
      show(true);
      context.announce("Signed out");
    });
    replace(account, session.token === null ? h("span", { class: "quiet" }, "Not signed in") : out);
  };
  window.addEventListener("hashchange", () => {
    if (routeOf(window.location.hash) !== null) show(true);
  });
  document.querySelector(".skip")?.addEventListener("click", (event) => {
    event.preventDefault(); // the address is the view's
    main.focus();
  });
  // A file that misses the drop zone must not replace the page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
  show(false);
}

function viewOf(context: Context, route: Route, refused: boolean, done: () => void): View {
  if (route.kind === "check") return checkView(context);
  if (route.kind === "unknown") return unknownView();
  if (context.session.token === null) return signInView(context, refused, done);
  return route.kind === "fleet" ? fleetView(context) : machineView(context, route.name, route.report);
}

function unknownView(): View {
  return {
    title: "Not found",
    node: h(
      "div",
      {},
      h("h1", { tabindex: -1 }, "Not found"),
      h("p", {}, "This address names nothing here. ", h("a", { href: "#/" }, "Show the machines")),
    ),
    stop() {},
  };
}

function markNavigation(route: Route): void {
  for (const link of document.querySelectorAll("[data-route]")) {
    const own = link.getAttribute("data-route") === (route.kind === "machine" ? "fleet" : route.kind);
    if (own) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function part(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`page: no element ${id}`);
  return found;
}
