// The rival's preview: what a Node worker would do with pg. It keeps to the
// interface where that costs the source something (a fresh SCRAM connection, a
// read-only transaction, a time limit, the wrap, 100 rows), and leaves out what
// would cost only itself: the check of the statement, stored and encrypted
// credentials, the record of the job, the cutting of long cells and results.
'use strict';

const { Client } = require('pg');

// what format_type() prints; other types are named by their number here
const TYPES = {
	16: 'boolean', 20: 'bigint', 21: 'smallint', 23: 'integer', 25: 'text', 1700: 'numeric', 3802: 'jsonb',
};
const BOOLEAN = 16;
const NUMBERS = new Set([20, 21, 23, 700, 701]);

// Numbers and booleans as such, all else as the source prints it.
function getTypeParser(oid) {
	if (NUMBERS.has(oid)) {
		return Number;
	}
	return oid === BOOLEAN ? (text) => text === 't' : (text) => text;
}

exports.createActivities = function createActivities(sources) {
	async function previewQuery({ connectionId, sql }) {
		const began = Date.now();
		const client = new Client({ ...sources[connectionId], connectionTimeoutMillis: 10000, types: { getTypeParser } });
		try {
			await client.connect();
			await client.query('BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = 10000');
			const { fields, rows } = await client.query({
				text: `select * from (${sql}\n) as preview_query limit 100`,
				rowMode: 'array',
				queryMode: 'extended',
			});
			await client.query('ROLLBACK');
			const truncated = rows.length === 100;
			return {
				columns: fields.map(({ name, dataTypeID }) => ({ name, type: TYPES[dataTypeID] ?? String(dataTypeID) })),
				rows,
				rowCount: rows.length,
				truncated,
				truncatedBy: truncated ? ['rows'] : [],
				durationMs: Date.now() - began,
			};
		} finally {
			await client.end();
		}
	}
	return { previewQuery };
};
