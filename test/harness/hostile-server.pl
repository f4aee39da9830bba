#!/usr/bin/perl
#
# A server that speaks PostgreSQL's protocol, up to a point.
#
#   hostile-server.pl MODE
#
# Listens on 127.0.0.1, prints "port N", then a line for each thing that
# happens: "startup", "password", "cancel", "described", ... It ends when its
# standard input does. What it does at which point is in %modes below; where a
# mode says nothing, it behaves as an honest server does that knows one
# statement, whose answer is one row with the text "honest".
#
# The messages are described in "Message Formats" of PostgreSQL's manual.

use strict;
use warnings;

use IO::Handle;
use IO::Socket::INET;
use Socket;

# Type oids.
my %oid = (bool => 16, bytea => 17, int8 => 20, int4 => 23, text => 25, float8 => 701);

my $socket;
my $pending = '';

# One connection, by default an honest one. Each key is a point of the
# conversation: code is run there instead of what is described.
my %modes = (
	honest => {},

	# before the sign-in
	'http' => {
		startup => sub {
			put("HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>password=hunter2</html>\n");
			done();
		}
	},
	'garbage' => { startup => sub { put(garbage(5000)); linger(); } },
	'tls-garbage' => { tls => sub { put(garbage(5000)); linger(); } },
	'tls-answer-garbage' => { tls => sub { put('X'); linger(); } },
	'tls-answer-then-garbage' => { tls => sub { put('S' . garbage(5000)); linger(); } },
	'tls-answer-then-silence' => { tls => sub { put('S'); get(5); say_event('client hello'); linger(); } },
	'tls-endless' => { tls => sub { put('S'); endless(sub { "\x16\x03\x03\x40\x00" . "\0" x 0x4000 }); } },
	'tls-closes' => { tls => sub { done(); } },
	'closes' => { startup => sub { done(); } },
	'starting-up' => { startup => sub { put(failure('57P03', 'FATAL', 'the database system is starting up')); done(); } },
	'in-another-language' => {
		startup => sub {
			put(failure('57P03', 'FATALE', "le syst\xC3\xA8me de bases de donn\xC3\xA9es se lance"));
			done();
		}
	},
	'login-huge-error' => { startup => sub { put('E' . pack('N', 1_000_000_000) . "C08004\0M"); endless(sub { 'x' x 65536 }); } },
	'login-old-error' => { startup => sub { put('E'); endless(sub { 'x' x 65536 }); } },
	'login-huge-message' => { startup => sub { put('R' . pack('N', 1_000_000_000)); endless(sub { 'x' x 65536 }); } },
	'login-endless-notices' => { startup => sub { endless(sub { notice() x 100 }); } },
	'login-kerberos' => { startup => sub { put(message('R', pack('N', 7))); linger(); } },
	'login-unknown-method' => { startup => sub { put(message('R', pack('N', 99))); linger(); } },
	'login-hard-scram' => { startup => sub { hard_scram('2147483647') } },
	'login-negative-scram' => { startup => sub { hard_scram('-2147483649') } },
	'login-password-flood' => { startup => sub { put(message('R', pack('N', 3)) x 3600); linger(); } },
	'login-hidden-kerberos' => { startup => sub { put('R' . pack('NN', 17, 3) . message('R', pack('N', 7))); linger(); } },
	'login-silent' => { password => sub { linger(); } },
	'login-endless-parameters' => {
		password => sub { put(message('R', pack('N', 0))); my $n = 0; endless(sub { join('', map { parameter('p' . $n++, '') } 1 .. 1000) }); }
	},
	'login-bad-parameters' => {
		parameters => sub { return parameter('server_version', "15\xFF\e[2J") . parameter('client_encoding', 'LATIN1'); }
	},

	# cancel requests
	'cancel-unanswered' => { query => sub { linger(); }, cancel => sub { linger(); } },
	'cancel-answered' => { query => sub { linger(); } },

	# the first batch: begin and describe
	'audit-terminated' => {
		begin => sub { put(failure('57P01', 'FATAL', 'terminating connection due to administrator command')); done(); }
	},
	'begin-silent' => { begin => sub { linger(); } },
	'no-description' => { describe => sub { return ''; } },
	'describes-nothing' => { describe => sub { return message('t', pack('n', 0)) . message('n', ''); } },
	'describes-parameters' => { describe => sub { return message('t', pack('nNN', 2, 23, 23)) . columns(text('c')); } },
	'describe-garbage' => { describe => sub { return garbage(5000); } },
	'huge-description' => { describe => sub { put(message('t', pack('n', 0)) . 'T' . pack('N', 1_000_000_000) . pack('n', 1600)); endless(sub { 'x' x 65536 }); } },
	'bad-names' => {
		columns => sub { return text("caf\xE9 \e[31m\xE2\x80\xAE"), [ 'mood', 99_999 ] },
		row => sub { return row("caf\xE9", "\xF0\x28\x8C\x28") },
	},

	# the second batch: rows
	'query-silent' => { query => sub { linger(); } },
	'row-silent' => { query => sub { put(bound(columns(text('c'))) . substr(row('x' x 1000), 0, 500)); linger(); } },
	'other-columns' => { query => sub { return bound(columns(text('a'), text('b'))) . row('1', '2') . complete('SELECT 1'); } },
	'other-cells' => { row => sub { return row('1', '2'); } },
	'too-few-cells' => { columns => sub { return text('a'), text('b'); }, row => sub { return row('1'); } },
	'negative-length' => { row => sub { return message('D', pack('nN', 1, 0xFFFFFF00)); } },
	'overlong-cell' => { row => sub { return message('D', pack('nN', 1, 1_000_000) . 'short'); } },
	'copy-out' => { query => sub { return bound(message('H', pack('CnN', 0, 1, 0))) . message('d', "x\n") . message('c', '') . complete('COPY 1'); } },
	'copy-in' => { query => sub { return bound(message('G', pack('CnN', 0, 1, 0))); } },
	'query-garbage' => { query => sub { put(garbage(5000)); linger(); } },
	'huge-row' => { query => sub { put(bound(columns(text('c'))) . 'D' . pack('NnN', 1_000_000_000, 1, 999_999_990)); endless(sub { 'x' x 1_000_000 }); } },
	'huge-row-lies' => { query => sub { put(bound(columns(text('c'))) . 'D' . pack('NnN', 0x7FFFFFFF, 1, 0x7FFFFFF0)); done(); } },
	'huge-error' => { query => sub { put('E' . pack('N', 1_000_000_000) . "SERROR\0C22000\0M"); endless(sub { 'x' x 1_000_000 }); } },
	'long-error' => { query => sub { return failure('22000', 'ERROR', 'y' x 7_000_000); } },
	'odd-error' => { query => sub { return failure('22000', 'ERROR', "no \xFF\xFE \e[2J \xE2\x80\xAE end"); } },
	'odd-sqlstate' => { query => sub { return failure("\xFF\e[2J", 'ERROR', 'odd'); } },
	'no-error' => { query => sub { return failure('00000', 'ERROR', 'all is well'); } },
	'endless-notices' => { query => sub { put(bound(columns(text('c')))); endless(sub { notice() x 100 }); } },
	'endless-notifications' => { query => sub { put(bound(columns(text('c')))); endless(sub { message('A', pack('N', 1) . "a\0b\0") x 1000 }); } },
	'endless-parameters' => { query => sub { my $n = 0; put(bound(columns(text('c')))); endless(sub { join('', map { parameter('p' . $n++, '') } 1 .. 1000) }); } },
	'endless-rows' => { query => sub { put(bound(columns(text('c')))); endless(sub { row('1') x 10_000 }); } },
	'endless-empty-rows' => {
		columns => sub { return; },
		query => sub { put(bound(columns())); endless(sub { row() x 10_000 }); }
	},
	'endless-results' => { query => sub { put(bound(columns(text('c')))); endless(sub { complete('SELECT 0') x 1000 }); } },
	'no-end' => { query => sub { put(bound(columns(text('c'))) . row('1') . complete('SELECT 1')); linger(); } },
	'closes-in-row' => { query => sub { put(bound(columns(text('c'))) . substr(row('x' x 1000), 0, 500)); done(); } },
	'not-utf8' => { row => sub { return row("\xFF\xFE caf\xE9 \xED\xA0\x80 \xC0\x80 \xF4\x90\x80\x80 end"); } },
	'nul' => { row => sub { return row("a\0b"); } },
	'odd-numbers' => {
		columns => sub { return map { [ $_, $oid{$_} ] } qw(int4 int8 float8 float8 bool); },
		query => sub {
			my @texts = (
				'1e400000', '1);', '', ' ', '-', '+', '.', 'e', '1e', '--1', '1.2.3', '0x1F', "1\0002",
				'NaN', 'Infinity', '1e131071', '-1e99999', '1e-16383', '1e-400000', '1' x 63, '9223372036854775808',
				'null', '[1]', '"', "\xFF", "\xD9\xA3");
			return bound(answer_columns()) . join('', map { row(($_) x 5) } @texts) . complete('SELECT 26');
		}
	},
	'wide-numbers' => {
		columns => sub { return map { [ "c$_", $oid{float8} ] } 1 .. 1600; },
		row => sub { return row(('1e131000') x 1600); },
	},
	'many-columns' => {
		columns => sub { return map { text('n' x 63) } 1 .. 1600; },
		row => sub { return row(('v' x 4000) x 1600); },
	},
);

my $mode_name = shift // '';
my $mode = $modes{$mode_name} or die "unknown mode \"$mode_name\"\n";

$SIG{PIPE} = 'IGNORE';
$SIG{CHLD} = 'IGNORE';
STDOUT->autoflush(1);

my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64)
  or die "could not listen: $!\n";
say_event('port ' . $listener->sockport);

# A group of our own: the end takes all connections along.
setpgrp(0, 0);
my $wait = '';
vec($wait, fileno($_), 1) = 1 foreach ($listener, \*STDIN);
while (1)
{
	my $ready = $wait;
	next if select($ready, undef, undef, undef) < 0;
	if (vec($ready, fileno(STDIN), 1) and !sysread(STDIN, my $unused, 1024))
	{
		$SIG{TERM} = 'IGNORE';
		kill 'TERM', -$$;
		exit 0;
	}
	next unless vec($ready, fileno($listener), 1);
	$socket = $listener->accept or next;
	my $pid = fork();
	if (defined $pid and $pid == 0)
	{
		setsockopt($socket, Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1);
		converse();
		exit 0;
	}
	close $socket;
}

# The whole of one connection.
sub converse
{
	my $code = 80877103;
	my ($length, $packet);

	while ($code == 80877103 or $code == 80877104)
	{
		($length, $code) = unpack('NN', get(8));
		$packet = $length > 8 ? get($length - 8) : '';
		if ($code == 80877103)
		{
			say_event('tls request');
			at('tls') // put('N');
		}
		put('N') if $code == 80877104;
	}
	if ($code == 80877102)
	{
		say_event('cancel');
		at('cancel');
		done();
	}
	say_event('startup');
	at('startup');
	put(message('R', pack('N', 3)));
	get_message();
	say_event('password');
	at('password');
	put(message('R', pack('N', 0))
		  . (at('parameters') // parameter('server_version', '15.0') . parameter('client_encoding', 'UTF8'))
		  . parameter('standard_conforming_strings', 'on')
		  . message('K', pack('NN', $$, 42))
		  . ready());
	say_event('signed in');

	my $sql = '';
	while (1)
	{
		my ($type, $body) = get_message();
		if ($type eq 'P')
		{
			(undef, $sql) = split(/\0/, $body);
			say_event('query') if is_query($sql);
			$pending .= message('1', '');
		}
		elsif ($type eq 'D')
		{
			# a statement is described for us, a portal is described and run
			$pending .= at('describe') // (message('t', pack('n', 0)) . answer_columns())
			  if $body =~ /^S/;
		}
		elsif ($type eq 'B')
		{
			flush_pending() if is_query($sql);
			$pending .= answer($sql);
		}
		elsif ($type eq 'S')
		{
			$pending .= ready();
			flush_pending();
		}
		elsif ($type eq 'X')
		{
			done();
		}
	}
	return;
}

sub is_query { return $_[0] =~ /as preview_query/; }

# All that is said to Bind, Describe and Execute of a statement.
sub answer
{
	my ($sql) = @_;

	if (is_query($sql))
	{
		my $whole = at('query');
		return $whole if defined $whole;
		return bound(answer_columns()) . (at('row') // row('honest')) . complete('SELECT 1');
	}
	if ($sql =~ /^BEGIN/)
	{
		at('begin');
		return bound(message('n', '')) . complete('BEGIN');
	}
	return bound(message('n', '')) . complete($1) if $sql =~ /^(SET|ROLLBACK)/;

	# settings, names of types, the audit
	my @types = $sql =~ /(format_type)/g;
	my @names = @types ? map { "type \xFF\e" } @types : ('on');
	return bound(columns(map { text('c') } @names)) . ($sql =~ /ours|pg_roles/ ? '' : row(@names)) . complete('SELECT 1');
}

sub answer_columns { return columns($mode->{columns} ? $mode->{columns}->() : text('answer')); }

# What the mode does at this point, undef when nothing of its own.
sub at
{
	my ($point) = @_;
	return $mode->{$point} ? $mode->{$point}->() : undef;
}

# An iteration count that keeps the client's processor busy for very long.
sub hard_scram
{
	my ($iterations) = @_;
	put(message('R', pack('N', 10) . "SCRAM-SHA-256\0\0"));
	my (undef, $first) = get_message();
	my ($nonce) = $first =~ /r=([^,]+)/ or done();
	say_event('scram');
	put(message('R', pack('N', 11) . "r=${nonce}abc,s=c2FsdHNhbHQ=,i=$iterations"));
	linger();
	return;
}

# Messages

sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length $body) . $body; }

sub ready { return message('Z', 'T'); }

sub parameter { my ($name, $value) = @_; return message('S', "$name\0$value\0"); }

sub failure { my ($sqlstate, $severity, $text) = @_; return message('E', "S$severity\0V" . ($severity =~ /^FATAL/ ? 'FATAL' : 'ERROR') . "\0C$sqlstate\0M$text\0\0"); }

sub notice { return message('N', "SNOTICE\0VNOTICE\0C00000\0M" . 'notice ' x 20 . "\0\0"); }

sub complete { return message('C', "$_[0]\0"); }

sub bound { return message('2', '') . $_[0]; }

sub text { return [ $_[0], $oid{text} ]; }

sub columns
{
	return message('T', pack('n', scalar @_) . join('', map { "$_->[0]\0" . pack('NnNnNn', 0, 0, $_->[1], 65535, 0xFFFFFFFF, 0) } @_));
}

sub row { return message('D', pack('n', scalar @_) . join('', map { pack('N', length $_) . $_ } @_)); }

# The same bytes each time, none of which begins a message that libpq knows.
sub garbage { my ($n) = @_; return substr("\x00\xFF\xFE\x7F\x80%s%n\0\xC3\x28" x $n, 0, $n); }

# Input and output

sub put
{
	my ($data) = @_;
	my $done = 0;

	flush_pending() if length $pending;
	while ($done < length $data)
	{
		my $n = syswrite($socket, $data, length($data) - $done, $done);
		exit 0 unless defined $n;
		$done += $n;
	}
	return '';
}

sub flush_pending
{
	my $data = $pending;
	$pending = '';
	put($data) if length $data;
	return;
}

sub get
{
	my ($length) = @_;
	my $data = '';

	while (length $data < $length)
	{
		sysread($socket, $data, $length - length $data, length $data) or exit 0;
	}
	return $data;
}

sub get_message
{
	my ($type, $length) = unpack('aN', get(5));
	return ($type, $length > 4 ? get($length - 4) : '');
}

# For ever, which is until the peer has had enough.
sub endless { my ($more) = @_; put($more->()) while 1; }

# Say no more; notice when the peer goes.
sub linger
{
	flush_pending();
	1 while sysread($socket, my $unused, 65536);
	exit 0;
}

sub done { flush_pending(); exit 0; }

sub say_event { print "$_[0]\n"; return; }
