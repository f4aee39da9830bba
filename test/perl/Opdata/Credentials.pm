
=pod

=head1 NAME

Opdata::Credentials - credential payloads for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Credentials;

  my $payload = credentials($source, username => 'reader', password => 'x');
  is(verdict($agent, $payload), 'ok', 'the role is let in');
  is(test_of($agent, $payload)->{tls}, undef, 'without TLS');

=cut

package Opdata::Credentials;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use IPC::Run;
use JSON::PP;
use Opdata::Test;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(
  credentials
  literal
  slurp_pem
  test_of
  verdict
  store
  preview
  code_of
  start_psql
  fake_network
);
our @EXPORT_OK = qw(reader);

=pod

=over

=item credentials(node, key => value, ...)

A payload for database "postgres" of a cluster on 127.0.0.1, without TLS. The
keys given replace these; undef takes one out.

=item reader(node, key => value, ...)

The same of role "reader" with password "reader_pw"; exported when asked for.

=cut

sub credentials
{
	my ($node, %keys) = @_;
	my %payload = (
		host => '127.0.0.1',
		port => $node->port + 0,
		database => 'postgres',
		sslMode => 'disable',
		%keys);

	delete $payload{$_} foreach grep { !defined $payload{$_} } keys %payload;
	return \%payload;
}

sub reader
{
	my ($node, %keys) = @_;
	return credentials($node, username => 'reader', password => 'reader_pw', %keys);
}

=pod

=item literal(value)

A text, or a payload as JSON, as an SQL literal.

=cut

sub literal
{
	my ($value) = @_;
	my $text =
	  ref $value ? JSON::PP->new->ascii->canonical->encode($value) : $value;

	$text =~ s/'/''/g;
	return "'$text'";
}

=pod

=item slurp_pem(dir, name)

The contents of a file in a folder of certificates.

=cut

sub slurp_pem
{
	my ($dir, $name) = @_;
	return slurp_file("$dir/$name");
}

=pod

=item test_of(agent, payload, type)

What opdata_test says of a payload (type "postgres" when not given).

=item verdict(agent, payload, type)

"ok", or the code of the test's error.

=cut

sub test_of
{
	my ($agent, $payload, $type) = @_;

	return json($agent,
		    'select opdata_test('
		  . literal($payload)
		  . '::jsonb, '
		  . literal($type // 'postgres')
		  . ')');
}

sub verdict
{
	my $result = test_of(@_);
	return $result->{ok} ? 'ok' : $result->{error}{code};
}

=pod

=item store(agent, id, payload, type)

Store a payload without testing it.

=item preview(agent, payload, sql)

The rows of a preview, of a payload that is stored for it.

=cut

sub store
{
	my ($agent, $id, $payload, $type) = @_;

	$agent->safe_psql('postgres',
		    'select opdata_store_creds('
		  . literal($id) . ', '
		  . literal($payload)
		  . '::jsonb, type => '
		  . literal($type // 'postgres')
		  . ', test => false)');
	return;
}

sub preview
{
	my ($agent, $payload, $sql) = @_;

	store($agent, 'previewed', $payload);
	return json($agent,
		q{select opdata_preview('previewed', } . literal($sql) . ')')->{rows};
}

=pod

=item code_of(agent, sql)

opdata's code of the error that a query raises, "ok" when it raises none. In
contrast to error_of() it does not depend on the agent's language.

=cut

sub code_of
{
	my ($agent, $sql) = @_;
	my $quoted = literal($sql);
	my ($stdout, $stderr);

	$agent->psql(
		'postgres', qq{
create function pg_temp.code_of(query text) returns text language plpgsql as \$\$
declare
	code text;
begin
	execute query;
	return 'ok';
exception when others or query_canceled then
	get stacked diagnostics code = pg_exception_detail;
	return coalesce(substring(code from '^[a-z_]+'), sqlstate);
end \$\$;
select pg_temp.code_of($quoted);},
		stdout => \$stdout,
		stderr => \$stderr);
	return $stdout ne '' ? $stdout : $stderr;
}

=pod

=item start_psql(agent, name, sql)

Runs a script in the background, in a session with this application name.
Returns the IPC::Run handle and references to its output and its errors.

=cut

sub start_psql
{
	my ($agent, $name, $sql) = @_;
	my ($out, $err) = ('', '');
	my $handle = IPC::Run::start(
		[
			'psql', '-XqAt', '-v', 'VERBOSITY=verbose', '-d',
			$agent->connstr('postgres') . " application_name='$name'",
			'-c', $sql
		],
		'<', \undef, '>', \$out, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

	return ($handle, \$out, \$err);
}

=pod

=item fake_network(table)

The environment in which a server gets names and addresses from this table
(test/harness/fake-resolver.c has its form). Called again, it replaces the
table for the servers that run.

=back

=cut

sub fake_network
{
	my ($table) = @_;
	my $folder = $PostgreSQL::Test::Utils::tmp_check;
	my ($library, $path) = map { "$folder/fake-resolver.$_" } qw(so table);

	system_or_bail('cc', '-shared', '-fPIC', '-o', $library,
		"$FindBin::RealBin/../harness/fake-resolver.c", '-ldl')
	  unless -e $library;
	return (LD_PRELOAD => $library, FAKE_RESOLVER_TABLE => replace_file($path, $table));
}

1;
