// A gateway in front of a gRPC server that lets no call last long.
//
//     node gateway.mjs --port P --upstream HOST:PORT --ca FILE --cert FILE --key FILE
//                      --path TEXT --after MS
//
// HTTP/2 with TLS on both sides. A call whose path holds TEXT, and which has had
// no answer after so long, is ended in one of these ways, by turns:
//
//     504     a page with this status
//     html    a page with status 200
//     reset   the stream is reset
//     cut     the connection is closed
//
// Each is told by a line on standard output, "ended: 504".

import { readFileSync } from 'node:fs';
import http2 from 'node:http2';
import { parseArgs } from 'node:util';

const { values: options } = parseArgs({
	options: Object.fromEntries(
		['port', 'upstream', 'ca', 'cert', 'key', 'path', 'after'].map(
			(name) => [name, { type: 'string' }])),
});
const ways = ['504', 'html', 'reset', 'cut'];
let turn = 0;
let upstream;

function connected() {
	if (!upstream || upstream.closed || upstream.destroyed) {
		upstream = http2.connect(`https://${options.upstream}`, { ca: readFileSync(options.ca) });
		upstream.on('error', () => {});
	}
	return upstream;
}

function page(stream, status) {
	stream.respond({ ':status': status, 'content-type': 'text/html' });
	stream.end('<html><body>The server took too long.</body></html>\n');
}

function endEarly(stream) {
	const way = ways[turn++ % ways.length];

	console.log(`ended: ${way}`);
	if (way === '504')
		page(stream, 504);
	else if (way === 'html')
		page(stream, 200);
	else if (way === 'reset')
		stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
	else
		stream.session.destroy();
}

function serve(stream, headers) {
	const call = connected().request(headers);
	let trailers = {};
	let timer;

	if (headers[':path'].includes(options.path)) {
		timer = setTimeout(() => {
			if (stream.destroyed || stream.headersSent)
				return;
			call.removeAllListeners('response');
			call.unpipe(stream);
			endEarly(stream);
			call.close(http2.constants.NGHTTP2_CANCEL);
		}, Number(options.after));
	}
	call.on('response', (answer, flags) => {
		const whole = (flags & http2.constants.NGHTTP2_FLAG_END_STREAM) !== 0;

		if (!stream.destroyed)
			stream.respond(answer, whole ? { endStream: true } : { waitForTrailers: true });
		if (!whole)
			call.pipe(stream);
	});
	call.on('trailers', (last) => { trailers = last; });
	call.on('error', () => stream.destroy());
	stream.on('wantTrailers', () => stream.sendTrailers(trailers));
	stream.on('error', () => {});
	stream.on('close', () => {
		clearTimeout(timer);
		call.close(http2.constants.NGHTTP2_CANCEL);
	});
	stream.pipe(call);
}

const server = http2.createSecureServer({
	cert: readFileSync(options.cert),
	key: readFileSync(options.key),
});
server.on('stream', serve);
server.on('session', (session) => session.on('error', () => {}));
server.listen(Number(options.port), '127.0.0.1', () => console.log('ready'));
