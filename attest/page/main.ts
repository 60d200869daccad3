import "./no-eval.ts";
import { startApp } from "./app.ts";

startApp();
