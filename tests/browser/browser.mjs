// A browser without a window, and pages from the disk in it. tests/browser/install puts playwright-core where this looks.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const repository = resolve(dirname(fileURLToPath(import.meta.url)), "../..");

// The browser's program: COLAC_BROWSER, else what Debian and others call it.
export function program() {
  const names = process.env.COLAC_BROWSER ? [process.env.COLAC_BROWSER] : ["chromium", "chromium-browser", "google-chrome"];
  for (const name of names) {
    try {
      return execFileSync("sh", ["-c", 'command -v "$1"', "sh", name], { encoding: "utf8" }).trim();
    } catch {
      /* The next one. */
    }
  }
  return null;
}

export async function launch() {
  const require = createRequire(resolve(repository, "target/browser/package.json"));
  const { chromium } = require("playwright-core");
  // Root may not use the sandbox, and containers often have a small /dev/shm.
  return chromium.launch({ executablePath: program(), args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

// Opens a page and notes what goes wrong in it: errors, warnings, and every request for anything but the page itself.
export async function open(browser, path, { width = 1280, height = 900, scheme = "light" } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: "reduce" });
  const page = await context.newPage();
  const url = pathToFileURL(path).href,
    complaints = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.stack ?? String(error)));
  page.on("request", (request) => {
    if (request.url().split("#")[0] !== url) complaints.push(`asked for ${request.url()}`);
  });
  page.on("dialog", (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  const start = performance.now();
  await page.goto(url);
  await page.locator(".card").first().waitFor();
  return { page, complaints, seconds: (performance.now() - start) / 1000, close: () => context.close() };
}

// The SHA-256 of a file, in hexadecimal.
export function digest(path) {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

// The picture that a page holds.
export function picture(path) {
  const [, rest] = readFileSync(path, "utf8").split('<script type="application/json" id="picture">');
  return JSON.parse(rest.split("</script>")[0]);
}

// A page with another picture in it.
export function withPicture(path, changed) {
  const text = readFileSync(path, "utf8"),
    open = '<script type="application/json" id="picture">';
  const [before, rest] = text.split(open),
    end = rest.indexOf("</script>");
  return before + open + JSON.stringify(changed).replaceAll("<", "\\u003c") + rest.slice(end);
}
