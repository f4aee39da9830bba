#!/bin/sh
#
# Build the fuzzer of test/fuzz/fuzz.c and run it on recorded histories and what
# it makes of them.
#
#   test/fuzz/run.sh [SECONDS]      default 60
#
# Needs clang-14 and libclang-rt-14-dev, the packages of "make deps", and the
# library built. Inputs that reached new code are kept in
# ~/.cache/opdata/fuzz-corpus, so that a later run begins where this one ended.
# A finding ends the run and is left in the current directory as crash-...;
# "~/.cache/opdata/fuzz crash-..." does it again.

set -eu

checkout=$(cd "$(dirname "$0")/../.." && pwd)
: "${PG_CONFIG:=pg_config}" "${CLANG:=clang-14}"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/opdata
fuzzer=$cache/fuzz
corpus=$cache/fuzz-corpus
src=$checkout/src
engine=$checkout/test/modules/engine

if [ ! -e "$src/temporal/temporal.pb-c.c" ]; then
	echo "build the library first: make" >&2
	exit 1
fi
mkdir -p "$corpus"

# Of the server only its string functions are linked, of the library what needs
# no more than that.
"$CLANG" -g -O1 -fwrapv -fno-strict-aliasing -fsanitize=fuzzer,address,undefined \
	-fno-sanitize-recover=undefined -Wno-ignored-attributes -D_GNU_SOURCE \
	-I"$src" -I"$engine" -I"$("$PG_CONFIG" --includedir)" -isystem "$("$PG_CONFIG" --includedir-server)" \
	-o "$fuzzer" "$checkout/test/fuzz/fuzz.c" "$engine/testflows.c" \
	"$src/worker/workflows.c" "$src/base/text.c" \
	"$src/temporal/decode.c" "$src/temporal/grpc.c" "$src/temporal/history.c" \
	"$src/temporal/workflow.c" "$src/temporal/temporal.pb-c.c" \
	"$("$PG_CONFIG" --pkglibdir)/libpgcommon.a" "$("$PG_CONFIG" --pkglibdir)/libpgport.a" -lprotobuf-c

# Each history as itself and as a task's, and some answers to a gRPC call.
perl -MMIME::Base64 - "$corpus" "$checkout"/test/histories/*/*.txt <<'PERL'
	my $corpus = shift;
	my $n = 0;

	sub write_seed
	{
		my ($bytes) = @_;
		open my $out, '>:raw', sprintf('%s/seed-%03d', $corpus, $n++) or die $!;
		print $out $bytes;
	}

	sub varint
	{
		my ($n) = @_;
		return $n < 128 ? chr $n : chr($n & 127 | 128) . varint($n >> 7);
	}

	foreach my $file (@ARGV)
	{
		open my $in, '<', $file or die "$file: $!";
		my (undef, @lines) = <$in>;
		my $history = decode_base64(join '', @lines);
		write_seed("H$history");
		write_seed("T\x0a\x01t\x42" . varint(length $history) . $history);
	}
	my $header = sub { join '', map { pack 'n/a', $_ } @_ };
	my $answer = pack 'CnCC', 0, 200, 2, 1;
	my $frame = pack('CN', 0, 5) . 'hello';
	write_seed("G$answer" . $header->('grpc-status', '0') . $frame);
	write_seed("G$answer" . $header->('Grpc-Status', '14') . $frame);
	write_seed('G' . pack('CnCC', 0, 200, 3, 2) . $header->('grpc-status', '3', 'grpc-message', 'a%20b%ff%e2%80%ae%0') . $frame);
	write_seed('G' . pack('CnCC', 4, 504, 4, 0) . '<html>');
	write_seed("A\x0a\x01t\x32\x04test\x42\x04\x0a\x02\x12\x00");
PERL

# Strings at which the code branches.
dictionary=$(mktemp)
trap 'rm -f "$dictionary"' EXIT
for word in opdata_step opdata_patch id result p q one two pause First Second look Look think Think \
	act Act old Old new New extra Extra long Long storeCreds previewQuery testCredentials \
	deleteConnection TemporalScheduledById grpc-status grpc-message application/grpc; do
	echo "\"$word\""
done > "$dictionary"

"$fuzzer" -max_total_time="${1:-60}" -max_len=8192 -rss_limit_mb=2048 -timeout=10 \
	-dict="$dictionary" -print_final_stats=1 "$corpus"
