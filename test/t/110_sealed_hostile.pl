
# Tokens as no honest tool makes them, in place of credentials: each is refused
# with unsealing_failed, of which no word is the token's or the plaintext's, and
# the server goes on. Then thousands of mutations, the same in each run; for a
# search that goes on for longer:
#
#	make check-tap PROVE_TESTS=test/t/110_sealed_hostile.pl OPD_SEAL_SEED=7 OPD_SEAL_COUNT=200000

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use MIME::Base64 qw(decode_base64url encode_base64url);
use Opdata::Jose;
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{OPD_SEAL_SEED};
my $count = $ENV{OPD_SEAL_COUNT};
my $batch = 1000;

# of what is sealed, and in no error
my $secret = 'canary-1f6a';

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $folder = PostgreSQL::Test::Utils::tempdir();
my $algorithms = '"alg":"ECDH-ES+A256KW","enc":"A256GCM"';
my %credentials = (
	host => '127.0.0.1',
	port => 5432,
	database => 'd',
	username => 'u',
	password => $secret,
	sslMode => 'disable');
my $plaintext = $json->encode(\%credentials);

# Everything that is ever said of a token.
my %sentence = (
	length => 'it is too long',
	parts => 'it is no compact JWE, five parts in base64url',
	sizes => 'its key, initialization vector or tag has a wrong size',
	header => 'its header is no JSON object, or too long',
	algorithms => 'its algorithms are others than ECDH-ES+A256KW with A256GCM',
	member => 'its header has a member that is not taken (crit, zip, p2c, p2s, b64)',
	twice => 'its header has a member twice',
	kid => 'its kid is no string',
	party => 'its apu or apv is malformed',
	epk => 'its epk is no public key on P-256',
	altered => 'it was altered, or sealed to another key',
	unknown => 'its kid is of no key that this agent has, or has any more',
	object => 'what was sealed is no JSON object',
	again => 'what was sealed is sealed once more',
	payload => '"sealed" is no string, or stands beside other keys');
my %known = map { ("the sealed credentials cannot be opened: $_" => 1) } values %sentence;
my $hint = 'Seal them as a compact JWE (ECDH-ES+A256KW, A256GCM) to the key that SELECT opdata_public_key(); shows now.';

# a session's own, in kB
my $own_memory = q{select (regexp_match(pg_read_file('/proc/self/status'), 'RssAnon:\s+(\d+)'))[1];};

my $tenant = tenant('acme');
my $agent = $tenant->agent;
my $forger = forger();
my $key = json($agent, 'select opdata_public_key()');
my $started = value('select pg_postmaster_start_time()');
my $token = forge();
my @parts = split /\./, $token;

set_up();
vectors();
examples();
honest();
headers();
ephemeral_keys();
forms();
plaintexts();
payloads();
every_character();
in_workers();
memory();
mutations();
is(value('select pg_postmaster_start_time()'), $started, 'the server is the one that was started');
$agent->stop;
my $log = slurp_file($agent->logfile);
unlike($log, qr/terminated by signal|PANIC|TRAP/, 'nothing crashed');
unlike($log, qr/\Q$secret\E/, 'nothing that was sealed is in the log');
done_testing();

# ------------------------------------------------------------------- helpers

sub value { return $agent->safe_psql('postgres', $_[0]); }

# A token whose cryptography is right, with this header.
sub forge
{
	my ($header, %more) = @_;

	$header //= qq({$algorithms,"kid":"$key->{kid}","epk":EPK});
	return $forger->ask('forge', jwk => $key, header => $header, plaintext => $plaintext, %more);
}

# With these members beside those that have to be there.
sub with { my ($members, @more) = @_; return forge(qq({$algorithms,$members,"epk":EPK}), @more); }

sub with_bytes { return forge(undef, header_bytes => encode_base64url($_[0])); }

# The token with other parts: number => text.
sub replaced
{
	my (%new) = @_;
	return join '.', map { $new{$_} // $parts[$_] } 0 .. 4;
}

sub set_up
{
	$agent->safe_psql('postgres', <<~'SQL');
		CREATE TABLE attempt (n int GENERATED ALWAYS AS IDENTITY, kind text, payload text);
		CREATE TABLE outcome (n int, result jsonb);

		-- what storing such a payload gives, without a look at the source
		CREATE FUNCTION try(payload text) RETURNS jsonb LANGUAGE plpgsql AS $$
		DECLARE
			parsed jsonb;
			state text;
			message text;
			detail text;
			hint text;
			context text;
		BEGIN
			BEGIN
				parsed := payload::jsonb;
			EXCEPTION WHEN OTHERS THEN
				RETURN '{"code": "no json"}';
			END;
			PERFORM opdata_store_creds('tried', parsed, test => false);
			RETURN '{"code": "ok"}';
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS state := RETURNED_SQLSTATE, message := MESSAGE_TEXT,
				detail := PG_EXCEPTION_DETAIL, hint := PG_EXCEPTION_HINT, context := PG_EXCEPTION_CONTEXT;
			RETURN jsonb_build_object('code', substring(detail from '^[a-z_]+'), 'state', state, 'message', message,
				'detail', detail, 'hint', hint, 'context', context);
		END $$;
		SQL
	return;
}

# The outcomes of payloads, which are texts of JSON in UTF-8.
sub outcomes
{
	my (@payloads) = @_;
	my $path = "$folder/payloads";

	open my $file, '>:raw', $path or die "$path: $!";
	print $file map { s{\\}{\\\\}gr . "\n" } @payloads;
	close $file or die "$path: $!";
	value("truncate attempt restart identity; copy attempt (payload) from '$path'");
	return @{ json($agent, 'select json_agg(try(payload) order by n) from attempt') };
}

# Is each of these refused as it should be? Entries are a name, a token or the
# text of a payload, and why it is refused.
sub refused
{
	my ($what, @cases) = @_;
	my @payloads = map { ref $_->[1] ? ${ $_->[1] } : $json->encode({ sealed => $_->[1] }) } @cases;
	my @outcomes = outcomes(@payloads);

	foreach my $n (0 .. $#cases)
	{
		my ($name, undef, $why) = @{ $cases[$n] };
		my $got = $outcomes[$n];

		is_deeply(
			[ @$got{qw(code state detail hint message)} ],
			[   'unsealing_failed', '22023', 'unsealing_failed', $hint,
				"the sealed credentials cannot be opened: $sentence{$why}"
			],
			"$what: $name");
	}
	return;
}

# ------------------------------------------------------------ what is known

# The forger's key derivation is the RFCs', so that what it makes, and the agent opens, is.
sub vectors
{
	is_deeply(
		$forger->ask('vectors'),
		{ map { $_ => JSON::PP::true } 'sender', 'recipient', 'key wrap' },
		'the forger agrees with RFC 7518, appendix C, and RFC 3394, section 4.6');
	return;
}

sub examples
{
	my (@names, @payloads);
	open my $file, '<:encoding(UTF-8)', "$FindBin::RealBin/../corpus/jwe_rfc.txt" or die $!;

	while (my $name = <$file>)
	{
		next if $name =~ /^#|^$/;
		chomp($name, my $example = <$file>);
		push @names, $name;
		push @payloads, $json->encode({ sealed => $example });
		next unless $example =~ /^\{/;
		push @names, "$name, as an object";
		push @payloads, qq({"sealed": $example});
	}
	cmp_ok(@names, '>=', 17, 'there are examples');
	my @outcomes = outcomes(@payloads);
	foreach my $n (0 .. $#names)
	{
		is("$outcomes[$n]{code} $outcomes[$n]{state}", 'unsealing_failed 22023', $names[$n]);
		ok($known{ $outcomes[$n]{message} }, "$names[$n]: in our own words");
	}
	return;
}

# What is unusual and right, so that the others are refused for what they have.
sub honest
{
	my $deep = '[' x 1000 . ']' x 1000;
	my %good = (
		'as it should be' => $token,
		'without a kid' => forge("{$algorithms,\"epk\":EPK}"),
		'members in another order, and white space' =>
		  forge("\n{ \"epk\" :EPK ,\t\"enc\":\"A256GCM\",\"alg\" : \"ECDH-ES+A256KW\"} "),
		'names in escapes' => forge('{"\\u0061lg":"ECDH\\u002dES+A256KW","enc":"A256GCM","epk":EPK}'),
		'members that mean nothing' => with('"typ":"JWE","cty":"json","x":[1,{"y":null}],"":""'),
		'colons, commas and quotes in texts' => with('"a:b,\\"c\\":":"{\\"a\\":1,\\"a\\":1}\\\\","d":[{"a":1},{"a":1}]'),
		'a member that is nested deeply' => with("\"x\":$deep"),
		'keys that are offered elsewhere' =>
		  with('"jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/","jwk":{"kty":"oct","k":"AAAA"},"x5c":["AAAA"]'),
		'apu and apv' => with('"apu":"QWxpY2U","apv":"Qm9i"', apu => 'QWxpY2U', apv => 'Qm9i'),
		'an empty apu' => with('"apu":""'),
		'members of epk that mean nothing' => forge(undef, epk => { kid => 'x', use => 'enc', alg => 'none', key_ops => [] }),
		'a plaintext with escapes' => forge(undef, plaintext => '{"host":"\\u0068","database":"d","username":"u"}'));
	my @names = sort keys %good;
	my @outcomes = outcomes(map { $json->encode({ sealed => $good{$_} }) } @names);

	is($outcomes[$_]{code}, 'ok', "opened: $names[$_]") foreach 0 .. $#names;
	return;
}

# ------------------------------------------------------------------ headers

sub headers
{
	my $kid = "\"kid\":\"$key->{kid}\"";
	my $another = public_half($forger->generate('P-256'));
	my @cases;

	# algorithms that were not offered
	push @cases, [ "alg $_", forge("{\"alg\":\"$_\",\"enc\":\"A256GCM\",\"epk\":EPK}"), 'algorithms' ]
	  foreach 'none', 'None', '', 'dir', 'RSA1_5', 'RSA-OAEP', 'RSA-OAEP-256', 'A128KW', 'A256KW', 'A256GCMKW',
	  'PBES2-HS256+A128KW', 'PBES2-HS512+A256KW', 'ECDH-ES', 'ECDH-ES+A128KW', 'ECDH-ES+A192KW', 'ecdh-es+a256kw',
	  'ECDH-ES+A256KW ', 'ECDH-ES+A256KW\\n', 'ECDH-1PU+A256KW', 'HS256';
	push @cases, [ "enc $_", forge("{\"alg\":\"ECDH-ES+A256KW\",\"enc\":\"$_\",\"epk\":EPK}"), 'algorithms' ]
	  foreach 'none', '', 'A128GCM', 'A192GCM', 'A128CBC-HS256', 'A256CBC-HS512', 'a256gcm', 'C20P', 'XC20P';
	push @cases, [ "algorithms: $_", forge("{$_\"epk\":EPK}"), 'algorithms' ]
	  foreach '', '"alg":"ECDH-ES+A256KW",', '"enc":"A256GCM",', '"alg":null,"enc":"A256GCM",',
	  '"alg":["ECDH-ES+A256KW"],"enc":"A256GCM",', '"alg":{"ECDH-ES+A256KW":1},"enc":"A256GCM",', '"alg":1,"enc":true,';
	push @cases,
	  [ 'PBES2 with a huge p2c',
		forge('{"alg":"PBES2-HS512+A256KW","enc":"A256GCM","p2s":"AAAAAAAAAAA","p2c":2147483647}'),
		'algorithms' ];

	# members that would change how a token is opened
	push @cases,
	  [ 'zip, compressed', with('"zip":"DEF"', compress => JSON::PP::true), 'member' ],
	  [ 'zip, a bomb', with('"zip":"DEF"', compress => JSON::PP::true, plaintext => ' ' x 1000, repeat => 100_000), 'member' ],
	  map { [ "a member $_", with($_), 'member' ] }
	  '"zip":null', '"zip":"none"', '"crit":["exp"],"exp":1', '"crit":[]', '"crit":null',
	  '"b64":false', '"b64":true', '"crit":["b64"],"b64":false', '"p2c":1000000000', '"p2s":"AAAA"';

	# members that are there twice
	push @cases,
	  [ 'alg twice, the last one right', forge("{\"alg\":\"none\",$algorithms,\"epk\":EPK}"), 'twice' ],
	  [ 'alg twice, the first one right', forge("{$algorithms,\"epk\":EPK,\"alg\":\"none\"}"), 'twice' ],
	  [ 'alg twice and the same', forge("{$algorithms,$algorithms,\"epk\":EPK}"), 'twice' ],
	  [ 'alg twice, once in escapes', forge("{\"\\u0061lg\":\"dir\",$algorithms,\"epk\":EPK}"), 'twice' ],
	  [ 'epk twice', with('"epk":EPK'), 'twice' ],
	  [ 'kid twice', with("$kid,$kid"), 'twice' ],
	  [ 'a member of epk twice', forge("{$algorithms,\"epk\":{\"kty\":\"RSA\",\"kty\":\"EC\"}}"), 'twice' ],
	  [ 'a member of no use twice', with('"x":{"a":1,"a":2}'), 'twice' ];

	# what is no header
	my $right = "{$algorithms,\"epk\":EPK";
	push @cases, map { [ "header: $_->[0]", with_bytes($_->[1]), 'header' ] }
	  [ 'nothing', '' ],
	  [ 'no JSON', 'header' ],
	  [ 'a text', '"ECDH-ES+A256KW"' ],
	  [ 'null', 'null' ],
	  [ 'a number', '1' ],
	  [ 'a list', "[$right}]" ],
	  [ 'nested deeply', '[' x 6000 ],
	  [ 'objects that are nested deeply', '{"a":' x 1600 ],
	  [ 'without its end', $right ],
	  [ 'with something behind it', "$right}x" ],
	  [ 'two of them', "$right}$right}" ],
	  [ 'with a comma at its end', "$right,}" ],
	  [ 'with a byte order mark', "\xef\xbb\xbf$right}" ],
	  [ 'with single quotes', "$right,'a':1}" ],
	  [ 'with a comment', "$right/* */}" ],
	  [ 'no UTF-8', "$right,\"x\":\"\xff\"}" ],
	  [ 'an overlong character', "$right,\"x\":\"\xc0\x80\"}" ],
	  [ 'half a pair of surrogates', "$right,\"x\":\"\\ud800\"}" ],
	  [ 'a NUL', "$right,\"x\":\"\0\"}" ],
	  [ 'a NUL at its end', "$right}\0" ],
	  [ 'a NUL in escapes', "$right,\"x\":\"\\u0000\"}" ],
	  [ 'a line break in a text', "$right,\"x\":\"\n\"}" ],
	  [ 'a number without bounds', "$right,\"x\":1e999999}" ],
	  [ 'in UTF-16', join '', map { "$_\0" } split //, "{$algorithms}" ],
	  [ '9 kB', "$right,\"x\":\"" . 'x' x 9000 . '"}' ];

	# kid
	push @cases, map { [ "kid $_->[0]", with("\"kid\":$_->[0]"), $_->[1] ] }
	  [ '1', 'kid' ], [ 'null', 'kid' ], [ 'true', 'kid' ], [ "[\"$key->{kid}\"]", 'kid' ], [ '{}', 'kid' ],
	  [ '""', 'unknown' ], [ '"another"', 'unknown' ], [ "\"$key->{kid} \"", 'unknown' ], [ "\"%\"", 'unknown' ],
	  [ "\"' or true --\"", 'unknown' ], [ "\"" . lc($key->{kid}) . "\"", 'unknown' ];
	push @cases,
	  [ 'sealed to another key, with our kid', with($kid, jwk => $another), 'altered' ],
	  [ 'sealed to another key, without one', forge("{$algorithms,\"epk\":EPK}", jwk => $another), 'altered' ];

	# apu and apv
	push @cases, [ "apu and apv: $_", with($_), 'party' ]
	  foreach '"apu":1', '"apu":null', '"apu":["QQ"]', '"apu":"A"', '"apu":"QQ=="', '"apu":"QR"', '"apu":"Q+/Q"',
	  '"apu":"\\n"', '"apv":{}', '"apv":"*"', '"apv":"' . 'A' x 1368 . '"', '"apu":"Ünïcödé"';
	push @cases,
	  [ 'apu that was not agreed on', with('"apu":"QWxpY2U"'), 'altered' ],
	  [ 'apu and apv in each other\'s place',
		with('"apu":"QWxpY2U","apv":"Qm9i"', apu => 'Qm9i', apv => 'QWxpY2U'),
		'altered' ],
	  [ 'apv that is missing', forge(undef, apv => 'Qm9i'), 'altered' ];
	refused('header', @cases);
	return;
}

sub ephemeral_keys
{
	my @cases;
	my $other = $forger->generate('P-256');
	my $bytes = sub { return encode_base64url($_[0] x $_[1]) };

	push @cases, [ "none: $_", forge("{$algorithms,\"epk\":$_}"), 'epk' ]
	  foreach 'null', '""', '[]', '[EPK]', '{}', '1', 'true', '"EPK"' =~ s/EPK/x/r;
	push @cases, [ 'missing', forge("{$algorithms}"), 'epk' ];
	push @cases, [ "on $_", forge(undef, epk => { crv => $_ }), 'epk' ]
	  foreach 'P-521', 'p-256', 'prime256v1', 'secp256k1', 'P-256 ', 'X25519', '', 1;
	push @cases,
	  [ 'on P-384', forge(undef, crv => 'P-384'), 'epk' ],
	  [ 'with its private part', forge(undef, epk => { d => $bytes->("\1", 32) }), 'epk' ],
	  [ 'with a private part that is none', forge(undef, epk => { d => JSON::PP::false }), 'epk' ],
	  [ 'of kty OKP', forge(undef, epk => { kty => 'OKP' }), 'epk' ],
	  [ 'of kty RSA', forge(undef, epk => { kty => 'RSA', n => 'AAAA', e => 'AQAB' }), 'epk' ],
	  [ 'without kty', forge(undef, epk => { kty => undef }), 'epk' ],
	  [ 'without crv', forge(undef, epk => { crv => undef }), 'epk' ];

	# what is only seen when it is used
	push @cases, [ $_->[0], forge(undef, epk => $_->[1]), 'altered' ]
	  foreach [ 'without x', { x => undef } ], [ 'without y', { y => undef } ], [ 'an x that is a number', { x => 1 } ],
	  [ 'an empty x', { x => '' } ], [ 'an x of 31 bytes', { x => $bytes->("\1", 31) } ],
	  [ 'an x of 33 bytes', { x => $bytes->("\0", 33) } ], [ 'a y of 66 bytes', { y => $bytes->("\1", 66) } ],
	  [ 'an x with padding', { x => $bytes->("\1", 32) . '=' } ], [ 'an x that is no base64url', { x => '+' x 43 } ],
	  [ 'a point off the curve', { y => $other->{y} } ],
	  [ 'a point of another key', { x => $other->{x}, y => $other->{y} } ],
	  [ 'infinity', { x => $bytes->("\0", 32), y => $bytes->("\0", 32) } ],
	  [ 'numbers above the prime', { x => $bytes->("\xff", 32), y => $bytes->("\xff", 32) } ],
	  [ 'the agent\'s own key', { x => $key->{x}, y => $key->{y} } ],
	  [ 'numbers of 100 kB', { x => 'A' x 4000, y => 'A' x 1000 } ];
	refused('epk', @cases);
	return;
}

# -------------------------------------------------------------------- forms

sub forms
{
	my @cases;
	my $bytes = sub { return encode_base64url("\1" x $_[0]) };

	# cut, anywhere; a cut tag has not the size of one
	foreach my $n (0 .. length($token) - 1)
	{
		my $cut = substr($token, 0, $n);
		my $dots = $cut =~ tr/.//;
		my $tag = (split /\./, $cut, -1)[4] // '';

		push @cases, [ "cut after $n", $cut, $dots < 4 || length($tag) % 4 == 1 ? 'parts' : undef ];
	}
	my @outcomes = outcomes(map { $json->encode({ sealed => $_->[1] }) } @cases);
	is_deeply(
		[ grep { $outcomes[$_]{code} ne 'unsealing_failed' || !$known{ $outcomes[$_]{message} } } 0 .. $#cases ],
		[], 'a token that was cut, anywhere, is refused');
	is_deeply(
		[   grep { defined $cases[$_][2] && $outcomes[$_]{message} !~ /: \Q$sentence{ $cases[$_][2] }\E$/ } 0 .. $#cases
		],
		[], 'for what it is');

	# numbers of parts
	@cases = map { [ scalar(@$_) . ' parts', join('.', @$_), 'parts' ] } [], [ $parts[0] ], [ @parts[ 0 .. 2 ] ],
	  [ @parts[ 0 .. 3 ] ], [ @parts, '' ], [ @parts, $parts[4] ], [ '', @parts ], [ (@parts) x 200 ];
	push @cases, [ 'dots alone', '....', 'sizes' ], [ 'many dots', '.' x 100_000, 'parts' ],
	  [ 'a JWS', 'eyJhbGciOiJub25lIn0.e30.', 'parts' ];
	push @cases, [ 'no header', replaced(0 => ''), 'header' ], [ 'no ciphertext', replaced(3 => ''), 'altered' ];
	push @cases, [ "no part $_", replaced($_ => ''), 'sizes' ] foreach 1, 2, 4;

	# sizes
	push @cases, [ "a key of $_ bytes", replaced(1 => $bytes->($_)), 'sizes' ] foreach 1, 24, 32, 39, 41, 48, 256, 30000;
	push @cases, [ "a vector of $_ bytes", replaced(2 => $bytes->($_)), 'sizes' ] foreach 1, 8, 11, 13, 16, 30000;
	push @cases, [ "a tag of $_ bytes", replaced(4 => $bytes->($_)), 'sizes' ] foreach 1, 4, 12, 15, 17, 32, 30000;
	push @cases, [ 'a ciphertext of one byte', replaced(3 => $bytes->(1)), 'altered' ],
	  [ 'a tag of a longer ciphertext', replaced(3 => "$parts[3]AAAA"), 'altered' ];

	# base64url has one form
	foreach my $part (0 .. 4)
	{
		my $text = $parts[$part];

		push @cases, [ "part $part with $_->[0]", replaced($part => $_->[1]), 'parts' ]
		  foreach [ 'padding', $text . '=' x (-length($text) % 4 || 4) ], [ 'one =', "$text=" ], [ 'a space before', " $text" ],
		  [ 'a space behind', "$text " ], [ 'a line break behind', "$text\n" ],
		  [ 'a tab in it', substr($text, 0, 4) . "\t" . substr($text, 4) ],
		  [ 'a character of base64', '+' . substr($text, 1) ], [ 'another one', '/' . substr($text, 1) ],
		  [ 'a letter with an accent', 'é' . substr($text, 1) ], [ 'a percent escape', '%41' . substr($text, 1) ];
	}
	my $last = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
	push @cases, [ "part $_->[0] with unused bits", replaced($_->[0] => $_->[1]), 'parts' ]
	  foreach map { [ $_, $parts[$_] =~ s/(.)$/substr($last, index($last, $1) | 1, 1)/er ] }
	  grep { length($parts[$_]) % 4 } 0 .. 4;
	push @cases,
	  [ 'a length that no base64url has', replaced(3 => "$parts[3]" . 'A' x ((1 - length $parts[3]) % 4 || 4)), 'parts' ];

	# parts of different tokens
	my @others = split /\./, forge();
	push @cases, [ "part $_ of another token", replaced($_ => $others[$_]), 'altered' ] foreach 0 .. 4;

	# size of it all: 512 kB
	push @cases, [ 'a token of 600 kB', forge(undef, plaintext => ' ' x 1000, repeat => 450), 'length' ],
	  [ '600 kB that are none', 'A' x 600_000, 'length' ], [ 'a word', 'sealed', 'parts' ];
	refused('form', @cases);
	return;
}

# --------------------------------------------------------------- plaintexts

sub plaintexts
{
	my @cases = map { [ $_->[0], forge(undef, plaintext_bytes => encode_base64url($_->[1])), $_->[2] // 'object' ] }
	  [ 'nothing', '' ], [ 'a space', ' ' ], [ 'no JSON', $secret ], [ 'no JSON at its end', "$plaintext $secret" ],
	  [ 'null', 'null' ], [ 'true', 'true' ], [ 'a number', '42' ], [ 'a text', "\"$secret\"" ], [ 'a list', "[$plaintext]" ],
	  [ 'an empty list', '[]' ], [ 'two of them', "$plaintext$plaintext" ], [ 'a byte order mark', "\xef\xbb\xbf$plaintext" ],
	  [ 'no UTF-8', "{\"password\":\"$secret\xff\"}" ], [ 'a NUL in escapes', "{\"password\":\"$secret\\u0000\"}" ],
	  [ 'half a pair of surrogates', "{\"password\":\"$secret\\udc00\"}" ], [ 'a number without bounds', '{"port":1e999999}' ],
	  [ 'lists that are nested deeply', '[' x 300_000 ], [ 'objects that are nested deeply', '{"a":' x 60_000 ],
	  [ 'a NUL', "\0", 'altered' ], [ 'a NUL at its end', "$plaintext\0", 'altered' ],
	  [ 'a NUL in it', "{\"password\":\"$secret\0\"}", 'altered' ],
	  [ 'a token', $token ], [ 'sealed again', $json->encode({ sealed => $token }), 'again' ],
	  [ 'sealed again, beside more', $json->encode({ %credentials, sealed => $token }), 'again' ],
	  [ 'sealed again, with nothing in it', '{"sealed":null}', 'again' ];
	refused('plaintext', @cases);

	# what is an object is judged as one that came in the clear
	my %invalid = (
		'empty' => '{}',
		'an unknown key' => $json->encode({ %credentials, passwort => $secret }),
		'a value of a wrong type' => $json->encode({ %credentials, port => $secret }),
		'a value of 100 kB' => $json->encode({ %credentials, password => $secret x 10_000 }),
		'380 kB' => '{"host":"' . "$secret " x 30_000 . '"}');
	my @names = sort keys %invalid;
	my @outcomes = outcomes(map { $json->encode({ sealed => forge(undef, plaintext => $invalid{$_}) }) } @names);

	foreach my $n (0 .. $#names)
	{
		is("$outcomes[$n]{code} $outcomes[$n]{state}", 'invalid_credentials 22023', "plaintext: $names[$n]");
		unlike($json->encode($outcomes[$n]), qr/\Q$secret\E/, "plaintext: $names[$n]: it is not repeated");
	}
	return;
}

sub payloads
{
	my $quoted = $json->encode($token);

	refused(
		'payload',
		map { [ $_ =~ s/\Q$quoted\E/TOKEN/gr, \"$_", 'payload' ] } (
			'{"sealed":null}', '{"sealed":true}', '{"sealed":1}', '{"sealed":[]}', '{"sealed":{}}', "{\"sealed\":[$quoted]}",
			"{\"sealed\":{\"sealed\":$quoted}}", "{\"sealed\":$quoted,\"host\":\"h\"}", "{\"sealed\":$quoted,\"mode\":\"fields\"}",
			"{\"sealed\":$quoted,\"\":1}", "{\"sealed\":$quoted,\"Sealed\":$quoted}"));
	refused('payload', [ 'an empty token', '', 'parts' ]);

	# what is not the whole payload is nothing that is sealed
	my @others = outcomes("[{\"sealed\":$quoted}]", $quoted, "{\"Sealed\":$quoted}", "{\"dsn\":{\"sealed\":$quoted}}",
		$json->encode({ %credentials, password => { sealed => $token } }));
	is($_->{code}, 'invalid_credentials', 'a token elsewhere is no payload') foreach @others;
	is((outcomes("{\"sealed\":\"x\",\"sealed\":$quoted}"))[0]{code}, 'ok', 'of two keys jsonb keeps the last one');
	return;
}

# Each character of a token counts, and every bit of it.
sub every_character
{
	my $digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
	my $unnamed = forge("{$algorithms,\"epk\":EPK}");

	foreach my $case ([ 'with a kid', $token ], [ 'without one', $unnamed ])
	{
		my ($name, $text) = @$case;
		my (@at, @altered);

		foreach my $n (0 .. length($text) - 1)
		{
			my $character = substr($text, $n, 1);

			foreach my $new ($character eq '.' ? ('A') : map { substr($digits, index($digits, $character) ^ $_, 1) } 1, 32)
			{
				push @at, "$n to $new";
				push @altered, substr($text, 0, $n) . $new . substr($text, $n + 1);
			}
		}
		my @outcomes = outcomes(map { $json->encode({ sealed => $_ }) } @altered);

		cmp_ok(@outcomes, '>', 900, "$name: there are many characters");
		is_deeply(
			[ map { $at[$_] } grep { $outcomes[$_]{code} ne 'unsealing_failed' || !$known{ $outcomes[$_]{message} } } 0 .. $#at ],
			[], "$name: whichever of them is altered, the token is refused");
	}
	return;
}

# ------------------------------------------------------------------ workers

# The same code, in a process in which other jobs are under way.
sub in_workers
{
	my %hostile = (
		'alg none' => forge('{"alg":"none","enc":"A256GCM","epk":EPK}'),
		'a huge p2c' => forge('{"alg":"PBES2-HS512+A256KW","enc":"A256GCM","p2s":"AAAAAAAAAAA","p2c":2147483647}'),
		'a bomb' => with('"zip":"DEF"', compress => JSON::PP::true, plaintext => ' ' x 1000, repeat => 100_000),
		'a point off the curve' => forge(undef, epk => { x => encode_base64url("\1" x 32) }),
		'another kid' => with('"kid":"another"'),
		'four parts' => join('.', @parts[ 0 .. 3 ]),
		'an altered tag' => replaced(4 => 'A' x 21 . 'A'),
		'600 kB' => 'A' x 600_000,
		'deep nesting' => forge(undef, plaintext => '[' x 300_000),
		'no object' => forge(undef, plaintext => "\"$secret\""),
		'a NUL' => forge(undef, plaintext => "$secret\0"),
		'sealed again' => forge(undef, plaintext => $json->encode({ sealed => $token })));
	my @names = sort keys %hostile;
	my @workflows = map {
		my %inline = (type => 'postgres', credentials => { sealed => $hostile{$_} });
		(   { $tenant->arguments('testCredentialsWorkflow', {%inline}) },
			{ $tenant->arguments('storeCredsWorkflow', { connectionId => 'by workflow', %inline }) },
			{ $tenant->arguments('previewQueryWorkflow', { sql => 'select 1', %inline }) })
	} @names;
	my $ended = $tenant->client->execute_many(workflows => \@workflows);

	foreach my $n (0 .. $#$ended)
	{
		my $name = "$names[$n / 3], $workflows[$n]{type}";

		is(failure_of($ended->[$n]), 'unsealing_failed, final', $name);
		unlike($json->encode($ended->[$n]{error}), qr/\Q$secret\E/, "$name: nothing is repeated");
	}
	is(value(q{select count(*) from opdata.connection where id = 'by workflow'}), 0, 'nothing was stored');
	is(value(q{select count(*) from opdata_jobs where error_code = 'unsealing_failed' and state = 'failed'}),
		scalar(@$ended), 'the records tell of all of them');
	return;
}

# ------------------------------------------------------------------- memory

# What OpenSSL allocates is no memory context's: whatever way a token takes, it is
# freed. A key has some 500 bytes.
sub memory
{
	my %ways = (
		'opened' => $token,
		'altered' => replaced(4 => 'A' x 22),
		'with a key that cannot be unwrapped' => replaced(1 => encode_base64url("\1" x 40)),
		'with a point off the curve' => forge(undef, epk => { x => encode_base64url("\1" x 32) }),
		'sealed to another key' => forge("{$algorithms,\"epk\":EPK}", jwk => public_half($forger->generate('P-256'))));
	my $rounds = 500;

	foreach my $name (sort keys %ways)
	{
		my $payload = $json->encode({ sealed => $ways{$name} });
		my $go = "select count(try('$payload')) from generate_series(1, $rounds);";
		my (undef, $before, undef, $after) = split /\n/, value("$go $own_memory $go $own_memory");

		cmp_ok($after - $before, '<', 256, "$rounds tokens $name leave no memory behind")
		  or diag("$before kB, then $after kB");
	}
	return;
}

# ---------------------------------------------------------------- mutations

sub mutations
{
	my $path = "$folder/mutations";

	is( $forger->ask(
			'mutate',
			jwk => $key,
			seed => $seed + 0,
			count => $count + 0,
			credentials => \%credentials,
			path => $path),
		$count,
		"$count mutations of seed $seed");
	value("truncate attempt restart identity; copy attempt (kind, payload) from '$path'");

	# twice, by one session: what it needs once it has after the first time
	my @batches = map {
		"insert into outcome select n, try(payload) from attempt where n between $_ and $_ + $batch - 1;"
	} grep { $_ % $batch == 1 } 1 .. $count;
	my @kb = split /\n/, value(join "\n", (@batches, $own_memory) x 2);

	is(@kb, 2, 'a session has gone through all of them, twice');
	cmp_ok($kb[1] - $kb[0], '<', 4096, 'and has not grown') or diag("@kb kB");

	is(value('select count(*) from outcome'), 2 * $count, 'each has an outcome');
	is( value(q{select string_agg(distinct result ->> 'code', ' ') from outcome
			where result ->> 'code' not in
				('ok', 'no json', 'unsealing_failed', 'invalid_credentials', 'unsupported')
			or result ->> 'code' is null}),
		'', 'which is one of those that there may be');
	is(value(q{select count(distinct result -> 'code') from outcome group by n order by 1 desc limit 1}),
		1, 'and the same both times');
	is( value(
			q{select count(*) from outcome o join attempt a using (n)
			where result ->> 'code' <> 'unsealing_failed' and kind in ('token', 'parts')
			and payload not in (select payload from attempt where kind = 'whole')
			and result ->> 'code' not in ('ok', 'no json')}
		),
		0,
		'a token that was altered is never opened');
	unlike(value(q{select string_agg(distinct result::text, E'\n') from outcome}), qr/\Q$secret\E/, 'none is repeated');
	my $sentences = join ', ', map { "'" . s/'/''/gr . "'" } keys %known;
	is( value(
			"select result from outcome where result ->> 'code' = 'unsealing_failed' and (result ->> 'state' <> '22023'"
			  . " or result ->> 'message' not in ($sentences)) limit 1"),
		'', 'all that is said of a token is known');

	# else the mutations are too harsh or too mild to find anything
	my %reached = map { $_ => value("select count(*) from outcome where result ->> 'message' ~ '\Q$sentence{$_}\E'") }
	  grep { !/length|twice|again/ } keys %sentence;
	is_deeply([ sort grep { $reached{$_} == 0 } keys %reached ], [], 'every check has refused some');
	cmp_ok(value("select count(*) from outcome where result ->> 'code' = '$_'"), '>', $count / 50, "some are $_")
	  foreach 'ok', 'unsealing_failed', 'invalid_credentials';
	return;
}
