// Draws the pictures that stand in docs/figures: `node tests/browser/screenshots.mjs PAGE FOLDER`.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { digest, launch, open } from "./browser.mjs";

const [, , path, folder] = process.argv;
const browser = await launch();
for (const scheme of ["light", "dark"]) {
  for (const [width, height] of [
    [1280, 1000],
    [390, 844],
  ]) {
    const { page, complaints, close } = await open(browser, path, { width, height, scheme });
    // A pair of the MLP shows the waist best; the inspector tells what it saved.
    await page.keyboard.press("/");
    await page.keyboard.type("mlp.gate_proj");
    await page.keyboard.press("Enter");
    await page.locator(".big-waist").waitFor();
    await page.mouse.move(0, 0);
    await page.screenshot({ path: join(folder, `graph-${width}-${scheme}.png`) });
    if (complaints.length) throw new Error(complaints.join("\n"));
    await close();
  }
}
await browser.close();
writeFileSync(join(folder, "graph.sha256"), `${digest(path)}\n`);
