// Runs the checks of a module, as checks.py does: what it exports that is called check_...

import { inspect } from "node:util";

const module = await import(process.argv[2]);
const report = {};
for (const [name, check] of Object.entries(module)) {
  if (!name.startsWith("check_")) continue;
  try {
    await check();
    report[name.slice("check_".length)] = null;
  } catch (error) {
    report[name.slice("check_".length)] = inspect(error, { depth: 4 });
  }
}
process.stdout.write(JSON.stringify(report));
