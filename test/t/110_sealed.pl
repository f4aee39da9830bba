
# Credentials that are sealed to the agent, and previews that are sealed to whom
# they are for, with the JOSE tools that a customer has: the command jose, Node's
# jose and Python's jwcrypto. What is malformed is in 110_sealed_hostile.pl.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Digest::SHA qw(sha256);
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(decode_base64 decode_base64url encode_base64url);
use Opdata::Credentials qw(credentials literal start_psql);
use Opdata::Jose;
use Opdata::Temporal;
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $alg = 'ECDH-ES+A256KW';
my @curves = ('P-256', 'P-384', 'P-521');

# What must be in no log: part of every password; and in no history of a sealed
# preview: a row of the source.
my $secret = 'canary-7b20';
my $row = 'canary-c4d9';

my $json = JSON::PP->new->utf8->canonical;
my @tools = jose_tools();
my $forger = $tools[2];

my $source = source_cluster('source');
my $tables = qq{
	create role reader login password 'reader $secret ✓';
	create table item (id int primary key, note text, price numeric(10, 2));
	insert into item select n, '$row ' || n || ' Ünïcödé ✓ "quoted"', n * 1.25 from generate_series(1, 20) n;
	create table wide as select n, repeat('$row ', 80) as a, repeat('ä', 1020) as b, repeat('x', 1020) as c,
		repeat('y', 1020) as d, repeat('z', 1020) as e, repeat('v', 1020) as f, repeat('w', 1020) as g,
		repeat('u', 1020) as h, repeat('t', 1020) as i, repeat('s', 1020) as j
		from generate_series(1, 120) n;
	grant select on item, wide to reader;
};
utf8::encode($tables);
$source->safe_psql('postgres', $tables);
my $credentials = credentials($source, username => 'reader', password => "reader $secret ✓");
my $plaintext = $json->encode($credentials);

my $tenant = tenant('acme', conf => <<'CONF');
shared_preload_libraries = 'opdata, pg_stat_statements'
pg_stat_statements.track = all
pg_stat_statements.track_utility = on
log_statement = all
log_min_duration_statement = 0
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
wal_level = replica
max_wal_senders = 5
CONF
my $agent = $tenant->agent;
$agent->safe_psql('postgres', 'create extension pg_stat_statements');

my $standby = first_use();
my $key = json($agent, 'select opdata_public_key()');
credentials_by_each_tool();
read_only($standby);
previews_by_each_tool();
keys_that_are_none();
bound();
rotation();
required();
required_previews();
nothing_logged();
done_testing();

# ------------------------------------------------------------------- helpers

sub run { return $tenant->run(@_); }

sub value { return $agent->safe_psql('postgres', $_[0]); }

sub sealed { return { sealed => $_[0] }; }

# Sealed by the first tool, which costs least.
sub sealed_to
{
	my ($jwk, %header) = @_;
	return sealed($tools[0]->seal($jwk, $plaintext, %header));
}

sub test_sql { return 'select opdata_test(' . literal($_[0]) . '::jsonb)'; }

sub store_sql
{
	my ($id, $payload, $more) = @_;
	return 'select opdata_store_creds(' . literal($id) . ', ' . literal($payload) . ($more // '') . ')';
}

# The code of what a test of a payload by SQL raises, or of its result.
sub verdict
{
	my ($payload) = @_;
	my $error = error_of($agent, test_sql($payload));

	return "$error->{code} $error->{sqlstate}" if $error;
	my $result = json($agent, test_sql($payload));
	return $result->{ok} ? 'ok' : $result->{error}{code};
}

# What is stored of a connection, with nothing but the key and pgcrypto.
sub stored
{
	my ($id) = @_;
	my $hex = value(
		q{select encode(pgp_sym_decrypt_bytea(payload, encode(pg_read_binary_file('opdata.key'), 'hex')), 'hex')}
		  . ' from opdata.connection where id = ' . literal($id));
	my (undef, undef, undef, undef, $payload) = split /\0/, pack('H*', $hex), 5;

	return canonical($json->decode($payload));
}

sub result_of
{
	my ($ended) = @_;

	is(code_of($ended), 'ok', "$ended->{workflow_id}: succeeds");
	return $ended->{result};
}

# A preview without what differs from run to run.
sub steady { return canonical($_[0], 'durationMs'); }

# All bytes of a workflow's history.
sub history_of
{
	my ($ended) = @_;
	return decode_base64($tenant->client->history_bytes(workflow_id => $ended->{workflow_id})->{base64});
}

sub preview
{
	my ($sql, %more) = @_;
	return run('previewQueryWorkflow', { connectionId => 'shop', sql => $sql, %more });
}

# Workers look at settings when they have the time: a restart does not leave it to them.
sub set
{
	my (%settings) = @_;

	$agent->append_conf('postgresql.conf', join '', map { "$_ = $settings{$_}\n" } sort keys %settings);
	$agent->restart;
	return;
}

# --------------------------------------------------------------------- keys

# No pair is made where nothing can be written, and one by many who ask at once.
sub first_use
{
	value(store_sql('shop', $credentials));
	$agent->backup('base');
	my $node = PostgreSQL::Test::Cluster->new('standby');
	$node->init_from_backup($agent, 'base', has_streaming => 1);
	$node->append_conf('postgresql.conf', "opdata.temporal_address = ''\n");

	# the module's copy of the backup does not keep the mode
	chmod 0600, $node->data_dir . '/opdata.key' or die "chmod: $!";
	$node->start;
	$agent->wait_for_catchup($node);

	foreach my $case ([ $node, 'a standby', '' ], [ $agent, 'a read-only session', 'begin read only; ' ])
	{
		my ($where, $name, $begin) = @$case;
		my $error = error_of($where, "${begin}select opdata_public_key()");

		is("$error->{code} $error->{sqlstate}", 'unsupported 25006', "$name makes no key");
		like($error->{hint}, qr/on the primary/, "$name tells where one is made");
	}
	is(value('select count(*) from opdata.sealing_key'), 0, 'there is none');
	is(verdict(sealed_to(public_half($tools[0]->generate('P-256')))),
		'unsealing_failed 22023', 'what is sealed to another key is not opened by an agent without one');

	# One has seen that there is none, and asks when there is.
	my $gate = background('gate', 'select pg_advisory_lock(110), pg_sleep(600)');
	ok(wait_until(sub { value(q{select count(*) from pg_locks where locktype = 'advisory' and granted}) == 1 }),
		'the gate is shut');
	my $late = background('late',
			'begin isolation level repeatable read; select count(*) from opdata.sealing_key;'
		  . ' select pg_advisory_lock(110); select opdata_public_key()');
	ok(wait_until(sub { value(q{select count(*) from pg_locks where locktype = 'advisory' and not granted}) == 1 }),
		'a transaction with an old snapshot waits');

	# All of these have seen it, and wait, before one may make it.
	my $held = background('holds', 'begin; lock table opdata.sealing_key in row exclusive mode; select pg_sleep(600)');
	ok(wait_until(sub { value(locks('holds', 't')) > 0 }), 'the table is locked');
	my @asking = map { background("asks $_", q{select opdata_public_key() ->> 'kid'}) } 1 .. 10;
	ok(wait_until(sub { value(locks('asks', 'f')) == 10 }), 'ten sessions wait to make the first pair');
	value(q{select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'holds'});
	$held->{handle}->finish;
	$_->{handle}->finish foreach @asking;
	my %kids = map { ${ $_->{out} } => 1 } @asking;

	is_deeply([ map { ${ $_->{err} } } @asking ], [ ('') x 10 ], 'none of them fails');
	is(keys %kids, 1, 'all of them are given the same key');
	is(value('select count(*) from opdata.sealing_key'), 1, 'one pair was made');
	value(q{select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'gate'});
	$_->{handle}->finish foreach $gate, $late;
	like(${ $late->{err} }, qr/^ERROR:  40001:/, 'a transaction that cannot see it has to be run again');
	is(value(q{select private_key::text ~ '"d"' or encode(private_key, 'escape') ~ 'kty' from opdata.sealing_key}),
		'f', 'its private half is encrypted');
	is(value('select key_id = opdata_status() #>> \'{key,id}\' from opdata.sealing_key'),
		't', 'under the master key');
	return $node;
}

sub background
{
	my ($name, $sql) = @_;
	my ($handle, $out, $err) = start_psql($agent, $name, $sql);

	return { handle => $handle, out => $out, err => $err };
}

# How many sessions of such a name have a lock on the table of keys, or wait for one.
sub locks
{
	my ($name, $granted) = @_;
	return "select count(*) from pg_locks l join pg_stat_activity a using (pid) where application_name ~ '^$name'"
	  . " and relation = 'opdata.sealing_key'::regclass and granted = '$granted'"
	  . " and mode in ('ShareRowExclusiveLock', 'RowExclusiveLock')";
}

# ------------------------------------------------------- sealed credentials

sub credentials_by_each_tool
{
	is_deeply([ sort keys %$key ], [qw(alg crv kid kty use x y)], 'the public key has these members');
	is("$key->{kty} $key->{crv} $key->{use} $key->{alg}", "EC P-256 enc $alg", 'and says what it is for');

	my $by_hand = $json->encode({ map { $_ => $key->{$_} } qw(crv kty x y) });
	is($key->{kid}, encode_base64url(sha256($by_hand)), 'its id is its thumbprint');
	is(json($agent, 'select opdata_public_key()')->{kid}, $key->{kid}, 'it stays the same');

	# without a kid the agent tries its keys
	my %headers = (
		'with kid' => { kid => $key->{kid} },
		'without kid' => {},
		'with apu and apv' => { kid => $key->{kid}, apu => encode_base64url('Älice'), apv => encode_base64url('Bob') },
		'with apv alone' => { apv => encode_base64url('x' x 1024) });
	my %bare = %$key;
	delete @bare{qw(kid alg use)};

	foreach my $tool (@tools)
	{
		foreach my $how (sort keys %headers)
		{
			my $name = $tool->name . ", $how";
			my $jwk = exists $headers{$how}{kid} ? $key : \%bare;
			my $token = $tool->seal($jwk, $plaintext, %{ $headers{$how} });
			my $payload = sealed($token);

			is(header_of($token)->{kid}, $headers{$how}{kid}, "$name: the token is such a one");
			is(verdict($payload), 'ok', "$name: opdata_test() opens it");
			value(store_sql('by sql', $payload));
			is(stored('by sql'), canonical($credentials), "$name: opdata_store_creds() stores what was sealed");
			value(q{select opdata_delete('by sql')});
		}

		my $name = $tool->name;
		my %inline = (type => 'postgres', credentials => sealed($tool->seal($key, $plaintext, kid => $key->{kid})));
		my $tested = run('testCredentialsWorkflow', {%inline});
		ok(result_of($tested)->{ok}, "$name: testCredentialsWorkflow opens it");
		my $stored = run('storeCredsWorkflow', { connectionId => 'by workflow', %inline });
		is(result_of($stored)->{safeMetadata}{host}, '127.0.0.1', "$name: storeCredsWorkflow opens it");
		is(stored('by workflow'), canonical($credentials), "$name: and stores what was sealed");
		my $once = run('previewQueryWorkflow', { sql => 'select 42', %inline });
		is(result_of($once)->{rows}[0][0], 42, "$name: previewQueryWorkflow uses it once");
		unlike(history_of($_), qr/\Q$secret\E/, "$name: $_->{workflow_id} has no password in its history")
		  foreach $tested, $stored, $once;
		value(q{select opdata_delete('by workflow')});
	}

	my $browser = sealed($tools[1]->seal_in_browser($key, $plaintext));
	is(verdict($browser), 'ok', 'what WebCrypto has sealed is opened');
	value(store_sql('browser', $browser));
	is(stored('browser'), canonical($credentials), 'and stored');
	value(q{select opdata_delete('browser')});

	# What is in the token counts as if it had been given plain.
	my $error = error_of($agent, test_sql(sealed($tools[0]->seal($key, qq({"host": "h", "pasword": "$secret"})))));
	is("$error->{code} $error->{sqlstate}", 'invalid_credentials 22023', 'a sealed payload with a typing error');
	like($error->{detail}, qr/pasword/, 'is told its key');
	unlike(canonical($error), qr/\Q$secret\E/, 'and not its value');
	is(verdict(sealed($tools[0]->seal($key, $json->encode({ %$credentials, password => "wrong $secret" })))),
		'authentication_failed', 'a sealed password that is wrong is the result of a test');

	# The default of the command is another content encryption.
	my $default = Opdata::Jose::Command->new->call(
		{ key => $json->encode($key), plaintext => $plaintext }, qw(jwe enc -c -I @plaintext -k @key));
	$error = error_of($agent, test_sql(sealed($default)));
	is($error->{code}, 'unsealing_failed', 'a token with A128CBC-HS256 is refused');
	like($error->{hint}, qr/ECDH-ES\+A256KW, A256GCM/, 'and the hint says how to seal');

	# members of a header that stand for keys elsewhere are not looked at
	my $listener = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die $!;
	my $url = 'http://127.0.0.1:' . $listener->sockport . '/keys';
	my $token = $forger->ask('forge',
		jwk => $key,
		plaintext => as_text($plaintext),
		header => qq({"alg":"$alg","enc":"A256GCM","epk":EPK,"jku":"$url","x5u":"$url","jwk":{"kty":"EC"}}));
	is(verdict(sealed($token)), 'ok', 'jku, x5u and jwk have no effect');
	ok(!IO::Select->new($listener)->can_read(0), 'and nobody asked the address in them');
	return;
}

sub as_text
{
	my ($bytes) = @_;

	utf8::decode($bytes);
	return $bytes;
}

# The pair that the primary has made works wherever its rows and the master key are.
sub read_only
{
	my ($node) = @_;
	my $payload = sealed_to($key, kid => $key->{kid});

	$agent->wait_for_catchup($node);
	foreach my $case ([ $node, 'a standby', '' ], [ $agent, 'a read-only session', 'begin read only; ' ])
	{
		my ($where, $name, $begin) = @$case;

		is(json($where, "${begin}select opdata_public_key()")->{kid}, $key->{kid}, "$name tells the key");
		ok(json($where, $begin . test_sql($payload))->{ok}, "$name opens what is sealed to it");
		is(error_of($where, "${begin}select opdata_rotate_public_key()")->{sqlstate},
			'25006', "$name makes no other one");
	}
	$node->stop;
	return;
}

# --------------------------------------------------------- sealed previews

sub previews_by_each_tool
{
	my $sql = 'select id, note, price from item order by id';
	my $plain = preview($sql);
	my $expected = steady(result_of($plain));

	like($expected, qr/\Q$row\E/, 'a plain preview shows the rows');
	like(history_of($plain), qr/\Q$row\E/, 'and leaves them in the history');

	# each key is one of a tool, and what is sealed to it is opened by all
	foreach my $maker (@tools)
	{
		foreach my $crv (@curves)
		{
			my $private = $maker->generate($crv);
			my $name = $maker->name . " on $crv";
			my $ended = preview($sql, sealTo => public_half($private));
			my $result = result_of($ended);

			is_deeply([ keys %$result ], ['sealed'], "$name: the result is sealed and nothing else");
			my $header = header_of($result->{sealed});
			is("$header->{alg} $header->{enc} $header->{epk}{crv}", "$alg A256GCM $crv", "$name: as it should be");
			is(steady($json->decode($_->open($private, $result->{sealed}))),
				$expected, "$name: " . $_->name . ' opens it')
			  foreach @tools;
			my $history = history_of($ended);
			unlike($history, qr/\Q$row\E/, "$name: no row is in the history");
			unlike($history, qr/numeric|rowCount|truncated/, "$name: nor any other part of the result");
			is(value('select sealed_to from opdata_egress where workflow_id = ' . literal($ended->{workflow_id})),
				$header->{kid}, "$name: the log names the recipient");
		}
	}

	# by credentials in the input, for a key with members of its own
	my $private = $tools[1]->generate('P-256');
	my $ended = run(
		'previewQueryWorkflow',
		{   sql => $sql,
			type => 'postgres',
			credentials => sealed_to($key),
			sealTo => { %{ public_half($private) }, use => 'enc', alg => $alg, kid => 'mine', ext => \1, key_ops => [] }
		});
	is(steady($json->decode($tools[1]->open($private, result_of($ended)->{sealed}))),
		$expected, 'credentials and rows cross as ciphertext');
	unlike(history_of($ended), qr/\Q$row\E|\Q$secret\E/, 'neither is in the history');

	# two of the same rows have nothing in common
	my @tokens = map { (split /\./, result_of(preview($sql, sealTo => public_half($private)))->{sealed})[ 1 .. 4 ] } 1, 2;
	my %parts = map { $_ => 1 } @tokens;
	is(keys %parts, 8, 'each is sealed by keys of its own');

	# the largest result there is
	$plain = result_of(preview('select * from wide'));
	is_deeply($plain->{truncatedBy}, ['bytes'], 'a result may be too large');
	$ended = preview('select * from wide', sealTo => public_half($private));
	is(steady($json->decode($tools[1]->open($private, result_of($ended)->{sealed}))),
		steady($plain), 'what is left of it is sealed');

	# failures are in the clear
	$ended = preview('select no_such_column from item', sealTo => public_half($private));
	is(code_of($ended), 'query_failed', 'a sealed preview fails as a plain one');
	ok(exists result_of(preview('select 1', sealTo => undef))->{rows}, 'a sealTo that is null is none');
	return;
}

# Keys that nothing can be sealed to: as sealTo, and as a recipient.
sub keys_that_are_none
{
	my %good = map { $_ => public_half($forger->generate($_)) } @curves;
	my $private = $forger->generate('P-256');
	my %p256 = %{ $good{'P-256'} };
	my $zero = encode_base64url("\0" x 32);
	my $ones = encode_base64url("\xff" x 32);
	my %bad = (
		'a private key' => $private,
		'a key with a "d" that is null' => { %p256, d => undef },
		'an RSA key' => { kty => 'RSA', n => encode_base64url('n' x 256), e => 'AQAB' },
		'an RSA key with a curve' => { kty => 'RSA', n => encode_base64url('n' x 256), e => 'AQAB', crv => 'P-256' },
		'a symmetric key' => { kty => 'oct', k => $zero },
		'a key on X25519' => { kty => 'OKP', crv => 'X25519', x => $p256{x} },
		'a key on secp256k1' => { %p256, crv => 'secp256k1' },
		'a curve by its other name' => { %p256, crv => 'prime256v1' },
		'no curve' => { kty => 'EC', x => $p256{x}, y => $p256{y} },
		'a curve that is no text' => { %p256, crv => 256 },
		'a point of another key' => { %p256, y => $private->{y} },
		'a point of another curve' => { %{ $good{'P-384'} }, crv => 'P-256' },
		'the point 0, 0' => { %p256, x => $zero, y => $zero },
		'numbers above the prime' => { %p256, x => $ones, y => $ones },
		'a number with a zero in front' => { %p256, x => encode_base64url("\0" . decode_base64url($p256{x})) },
		'a number with padding' => { %p256, x => "$p256{x}=" },
		'a point without y' => { map { $_ => $p256{$_} } qw(kty crv x) },
		'a key to sign with' => { %p256, use => 'sig' },
		'a use that is no text' => { %p256, use => ['enc'] },
		'a key for another algorithm' => { %p256, alg => 'ECDH-ES' },
		'a key for RSA' => { %p256, alg => 'RSA-OAEP-256' },
		'an algorithm that is null' => { %p256, alg => undef },
		'a key of 17 kB' => { %p256, x5c => [ 'x' x 17000 ] },
		'a set of keys' => { keys => [ $good{'P-256'} ] },
		'a list' => [ $good{'P-256'} ],
		'a text of a key' => $json->encode($good{'P-256'}),
		'an empty object' => {},
		'an empty text' => '',
		'a number' => 1,
		'false' => JSON::PP::false);
	my @names = sort keys %bad;
	my @arguments = map {
		+{ $tenant->arguments('previewQueryWorkflow', { connectionId => 'shop', sql => 'select 1', sealTo => $bad{$_} }) }
	} @names;
	my $ended = $tenant->client->execute_many(workflows => \@arguments);

	foreach my $n (0 .. $#names)
	{
		my $name = $names[$n];
		my $text = JSON::PP->new->ascii->canonical->allow_nonref->encode($bad{$name});

		is(failure_of($ended->[$n]), 'unsupported, final', "$name: nothing is sealed to it");
		unlike($ended->[$n]{error}{message}, qr/\Q$p256{x}\E|\Q$p256{y}\E/, "$name: and it is not repeated");
		my $error = error_of($agent, 'select opdata_trust_recipient(' . literal($text) . "::jsonb, 'bad')");
		is("$error->{code} $error->{sqlstate}", 'unsupported 22023', "$name: and it is not registered");
	}
	is(value('select count(*) from opdata.recipient'), 0, 'none of them is a recipient');
	return;
}

# ---------------------------------------------------------------- rotation

sub rotation
{
	my %old = (kid => $key->{kid});
	my ($named, $unnamed) = (sealed_to($key, %old), sealed_to(public_half($key)));
	my $new = json($agent, q{select opdata_rotate_public_key('1 hour')});

	isnt($new->{kid}, $key->{kid}, 'another key');
	is_deeply(json($agent, 'select opdata_public_key()'), $new, 'is the one to seal to');
	is_deeply([ sort keys %$new ], [ sort keys %$key ], 'of the same form');
	my @new = (sealed_to($new, kid => $new->{kid}), sealed_to(public_half($new)));
	is(verdict($_), 'ok', 'tokens of the old key and of the new one open, with kid and without')
	  foreach $named, $unnamed, @new;
	is(code_of(run('testCredentialsWorkflow', { credentials => $_ })), 'ok', 'in a worker, too')
	  foreach $named, $unnamed, @new;
	is( verdict(sealed_to($key, kid => $new->{kid})),
		'unsealing_failed 22023',
		'a token that names another key than it is sealed to does not open');

	# many within the overlap: a kid finds its key among all of them
	my @later = map { json($agent, q{select opdata_rotate_public_key('1 hour')}) } 1 .. 9;
	is(value('select count(*) from opdata.sealing_key'), 11, 'as often as one likes');
	is(verdict($_), 'ok', 'a token names its key, however many there are') foreach $named, $new[0];

	# the overlap has ended
	value(q{update opdata.sealing_key set expires_at = now() - interval '1 second' where kid = } . literal($key->{kid}));
	foreach my $payload ($named, $unnamed)
	{
		is(verdict($payload), 'unsealing_failed 22023', 'after the overlap nothing of the old key opens');
		is(failure_of(run('testCredentialsWorkflow', { credentials => $payload })),
			'unsealing_failed, final', 'in a worker neither');
	}
	like(error_of($agent, test_sql($named))->{message}, qr/kid is of no key that this agent has, or has any more/,
		'and the error says why');
	is(verdict($new[0]), 'ok', 'what has not ended does');
	value('select opdata_rotate_public_key()');
	is(value('select count(*) from opdata.sealing_key where kid = ' . literal($key->{kid})),
		0, 'the next rotation deletes what has ended');

	# workers delete it, too, when they start
	value(q{update opdata.sealing_key set expires_at = now() - interval '1 second' where kid = } . literal($new->{kid}));
	$agent->restart;
	ok(wait_until(sub { value('select count(*) from opdata.sealing_key where kid = ' . literal($new->{kid})) == 0 }),
		'and so does a worker');

	# at once
	my $current = json($agent, 'select opdata_public_key()');
	my $last = sealed_to($current, kid => $current->{kid});
	is(verdict($last), 'ok', 'before a rotation without an overlap');
	value(q{select opdata_rotate_public_key('0')});
	is(verdict($last), 'unsealing_failed 22023', 'after it');

	my $error = error_of($agent, q{select opdata_rotate_public_key('-1 second')});
	is("$error->{code} $error->{sqlstate}", 'unsupported 22023', 'an overlap cannot be negative');
	$error = error_of($agent, q{select opdata_rotate_public_key('1000000 years')});
	is("$error->{code} $error->{sqlstate}", 'unsupported 22023', 'nor longer than time is');
	$error = error_of($agent, 'select opdata_rotate_public_key(null)');
	is("$error->{code} $error->{sqlstate}", 'unsupported 22004', 'nor null');
	my $before = json($agent, 'select opdata_public_key()');
	value('begin; select opdata_rotate_public_key(); rollback');
	is_deeply(json($agent, 'select opdata_public_key()'), $before, 'a rotation can be rolled back');
	is(value('select count(*) from opdata.sealing_key where expires_at is null'), 1, 'one pair has no end');
	$key = $before;
	return;
}

# ---------------------------------------------------------------- demanded

sub required
{
	set('opdata.require_sealed' => 'on');
	my %inline = (type => 'postgres', credentials => $credentials);
	my $n_connections = value('select count(*) from opdata.connection');

	foreach my $sql (
		test_sql($credentials),
		test_sql({}),
		store_sql('plain', $credentials),
		store_sql('plain', $credentials, ', test => false'),
		store_sql('shop', $credentials))
	{
		my $error = error_of($agent, $sql);

		is("$error->{code} $error->{sqlstate}", 'sealed_required 42501', 'plaintext is refused in SQL');
		like($error->{hint}, qr/opdata_public_key/, 'with a way out');
		unlike(canonical($error), qr/\Q$secret\E/, 'and is not repeated');
	}
	foreach my $ended (
		run('testCredentialsWorkflow', {%inline}),
		run('storeCredsWorkflow', { connectionId => 'plain', %inline }),
		run('previewQueryWorkflow', { sql => 'select 1', %inline }))
	{
		is(failure_of($ended), 'sealed_required, final', "$ended->{workflow_id}: plaintext is refused");
	}
	is(value('select count(*) from opdata.connection'), $n_connections, 'nothing was stored');

	# everything else works
	%inline = (type => 'postgres', credentials => sealed_to($key, kid => $key->{kid}));
	is(verdict($inline{credentials}), 'ok', 'sealed credentials are tested');
	value(store_sql('sealed', $inline{credentials}));
	is(stored('sealed'), canonical($credentials), 'and stored');
	is(code_of(run('testCredentialsWorkflow', {%inline})), 'ok', 'tested by a workflow');
	is(code_of(run('storeCredsWorkflow', { connectionId => 'sealed', %inline })), 'ok', 'stored by a workflow');
	is(code_of(run('previewQueryWorkflow', { sql => 'select 1', %inline })), 'ok', 'used once');
	is(code_of(run('testCredentialsWorkflow', { connectionId => 'shop' })), 'ok', 'what was stored before is used');
	is(code_of(preview('select 1')), 'ok', 'for previews, too');
	ok(json($agent, 'select opdata_status()')->{boundary}{requireSealed}, 'the status tells');
	return;
}

# Who seals may say what for: nobody on the way can use it as something else.
sub bound
{
	my $n_connections = value('select count(*) from opdata.connection');
	my $token = sub { return sealed($tools[ $_[0] ]->seal($key, $json->encode({ %$credentials, @_[ 1 .. $#_ ] }))) };
	my $store = sub {
		my ($payload, $id, $workspace) = @_;
		return failure_of(run('storeCredsWorkflow', { connectionId => $id, workspaceId => $workspace, type => 'postgres', credentials => $payload }));
	};
	my $both = $token->(0, connectionId => 'bound', workspaceId => 'vault');

	is($store->($both, 'bound', 'elsewhere'), 'unsealing_failed, final', 'sealed for one workspace, not stored in another');
	is($store->($both, 'other', 'vault'), 'unsealing_failed, final', 'nor as another connection');
	is($store->($both, 'bound', undef), 'unsealing_failed, final', 'nor where none is named');
	is($store->($token->(1, workspaceId => 'vault'), 'bound', 'vault2'), 'unsealing_failed, final', 'a workspace alone can be named');
	is($store->($token->(2, connectionId => 'bound'), 'bound2', 'vault'), 'unsealing_failed, final', 'or a connection');
	is($store->($token->(0, workspaceId => $_), 'bound', 'vault'), 'unsealing_failed, final', 'what is no name is none: ' . canonical([$_]))
	  foreach undef, 1, '', ['vault'], 'Vault';
	is(failure_of(run('previewQueryWorkflow', { sql => 'select 1', type => 'postgres', credentials => $_ })),
		'unsealing_failed, final', 'nor is it used for a preview, of no workspace')
	  foreach $both, $token->(0, connectionId => 'bound'), $token->(0, workspaceId => 'vault');
	my $error = error_of($agent, store_sql('other', $both, ", workspace_id => 'vault'"));
	is("$error->{code} $error->{sqlstate}", 'unsealing_failed 22023', 'nor in SQL as another');
	like($error->{hint}, qr/sealed with them/, 'with a hint');
	is(value('select count(*) from opdata.connection'), $n_connections, 'nothing was stored');

	is(verdict($both), 'ok', 'it can be tested');
	is(code_of(run('testCredentialsWorkflow', { type => 'postgres', credentials => $both })), 'ok', 'by a workflow too');
	is($store->($both, 'bound', 'vault'), 'ok', 'and stored as what it is for');
	is(stored('bound'), canonical($credentials), 'of which nothing is kept among the credentials');
	is(code_of(run('previewQueryWorkflow', { connectionId => 'bound', sql => 'select 1' })), 'ok', 'which works');
	value(store_sql('bound', $both, ", workspace_id => 'vault'"));
	is(stored('bound'), canonical($credentials), 'in SQL the same');
	is(error_of($agent, store_sql('bound', { %$credentials, workspaceId => 'vault' }, ", workspace_id => 'vault'"))->{code},
		'invalid_credentials', 'what is not sealed takes no such key');
	value(q{select opdata_delete('bound')});
	return;
}

sub required_previews
{
	set('opdata.require_sealed_preview' => 'on');
	my %keys = map { $_ => $tools[1]->generate($_) } @curves;
	my %public = map { $_ => public_half($keys{$_}) } @curves;
	my $sql = 'select note from item where id = 7';
	my $verdict = sub {
		my ($sealTo) = @_;
		my $ended = preview($sql, defined $sealTo ? (sealTo => $sealTo) : ());

		unlike(history_of($ended), qr/\Q$row\E/, "$ended->{workflow_id}: no row is in the history");
		return failure_of($ended);
	};
	my $trust = sub {
		my ($jwk, $label) = @_;
		return json($agent, 'select opdata_trust_recipient(' . literal($jwk) . '::jsonb, ' . literal($label) . ')');
	};
	my $distrust = sub { return json($agent, 'select opdata_distrust_recipient(' . literal($_[0]) . ')')->{distrusted} };

	is($verdict->(undef), 'egress_denied, final', 'a preview in the clear may not leave');
	is(failure_of(preview($sql, sealTo => undef)), 'egress_denied, final', 'nor one to nobody');
	is($verdict->($public{'P-256'}), 'egress_denied, final', 'nor one that is sealed to anybody');
	is( failure_of(
			run('previewQueryWorkflow',
				{ sql => $sql, type => 'postgres', credentials => sealed_to($key), sealTo => $public{'P-256'} })),
		'egress_denied, final',
		'by credentials in the input neither');
	is(code_of(preview($sql, sealTo => $keys{'P-256'})), 'unsupported', 'a private key is no recipient');
	is(json($agent, 'select opdata_preview(\'shop\', ' . literal($sql) . ')')->{rowCount},
		1, 'a preview from SQL stays here, and needs none');

	foreach my $crv (@curves)
	{
		my $told = $trust->({ %{ $public{$crv} }, kid => 'of no use', use => 'enc', alg => $alg }, "key on $crv");
		my $ended = preview($sql, sealTo => { %{ $public{$crv} }, kid => 'another' });
		my $token = result_of($ended)->{sealed};

		is($told->{label}, "key on $crv", "$crv: registered");
		is($told->{kid}, header_of($token)->{kid}, "$crv: by its thumbprint");
		is($json->decode($tools[1]->open($keys{$crv}, $token))->{rowCount}, 1, "$crv: its owner reads it");
		unlike(history_of($ended), qr/\Q$row\E/, "$crv: no row is in the history");
	}
	is(value('select count(*) from opdata_egress where sealed_to is null and query ~ \'id = 7\''),
		0, 'the log has none that left in the clear');

	# the label stays, the key is another one
	$trust->($public{'P-384'}, 'ana');
	ok($distrust->('key on P-384'), 'one of two names of a key is taken away');
	is($verdict->($public{'P-384'}), 'ok', 'the other one is enough');
	my $next = $tools[2]->generate('P-521');
	$trust->(public_half($next), 'ana');
	is($verdict->($public{'P-384'}), 'egress_denied, final', 'a key that was replaced is no recipient');
	is($verdict->(public_half($next)), 'ok', 'the one that replaced it is');
	ok($distrust->('ana'), 'and that is taken away');
	ok(!$distrust->('ana'), 'once');
	is($verdict->(public_half($next)), 'egress_denied, final', 'so that nothing is sealed to it');
	is($verdict->($public{'P-256'}), 'ok', 'others are as they were');
	is(value(q{select string_agg(jwk::text, '') !~ 'of no use' and string_agg(jwk::text, '') !~ '"d"' from opdata.recipient}),
		't', 'of a key nothing but its point is kept');
	return;
}

# ------------------------------------------------------------------ traces

sub nothing_logged
{
	# while a call is under way
	my $silent = silent_server(at => 'connect');
	my $token = $tools[0]->seal($key, $json->encode({ %$credentials, port => $silent->port + 0 }));
	my $call = background('holding', test_sql(sealed($token)) . ', pg_sleep(600)');
	my $holding = q{select count(*) from pg_stat_activity
		where application_name = 'holding' and state = 'active' and query ~ 'hidden'};
	ok(wait_until(sub { value($holding) == 1 }), 'a call with a token hides its statement');
	my $seen = value('select string_agg(a::text, E\'\n\') from pg_stat_activity a');
	unlike($seen, qr/\Q$secret\E/, 'what others see of it has no password');
	unlike($seen, qr/\Q@{[ (split m{\.}, $token)[3] ]}\E/, 'nor the token');
	value(q{select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'holding'});
	$call->{handle}->finish;
	$silent->stop;

	my $statements = value('select string_agg(query, E\'\n\') from pg_stat_statements');
	like($statements, qr/opdata_public_key/, 'pg_stat_statements has the calls');
	unlike($statements, qr/\Q$secret\E/, 'and no password');

	# with nothing but the key and pgcrypto, to look for them
	my @private = map { (split /\0/, pack('H*', $_), 5)[4] } split /\n/, value(
		q{select encode(pgp_sym_decrypt_bytea(private_key, encode(pg_read_binary_file('opdata.key'), 'hex')), 'hex')
			from opdata.sealing_key});
	cmp_ok(@private, '>', 1, 'there are private keys');
	$agent->stop;
	my $log = slurp_file($agent->logfile);
	like($log, qr/hidden by opdata/, 'the log has the calls');
	unlike($log, qr/\Q$secret\E/, 'and no password');
	unlike($log, qr/\Q$row\E/, 'nor a row of the source');
	is(scalar(grep { index($log, $json->decode($_)->{d}) >= 0 } @private), 0, 'nor a private key');
	unlike($log, qr/terminated by signal|PANIC|TRAP/, 'nothing crashed');
	return;
}
