// Loads packages from the folder that OPD_NODE_MODULES names. An "import" looks
// beside its own file only, and the tests are copied away from the checkout.

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const modules = process.env.OPD_NODE_MODULES;

// load('convex/server') is what "import * as ... from 'convex/server'" gives.
export function load(name) {
	const [, pkg, below] = /^((?:@[^/]+\/)?[^/]+)(?:\/(.+))?$/.exec(name);
	const folder = path.join(modules ?? '', pkg);
	const manifest = JSON.parse(readFileSync(path.join(folder, 'package.json')));
	let entry = manifest.exports?.[below ? `./${below}` : '.'] ?? manifest.main;

	while (typeof entry === 'object')
		entry = entry.import ?? entry.node ?? entry.default;
	return import(pathToFileURL(path.join(folder, entry)));
}
