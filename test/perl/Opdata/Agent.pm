
=pod

=head1 NAME

Opdata::Agent - a cluster with opdata, its workers and its settings, for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Test;

  my $agent = agent_cluster('agent', soon => 40, conf => "opdata.org_id = 'acme'\n");

  $agent->workers_get('not_configured', 'without an address the workers are idle');
  $agent->renew(temporal_address => $temporal->address);
  $agent->workers_get('polling', 'with one they poll');
  ok(!$agent->warned('temporal_unreachable'), 'nothing is warned of');

=head1 DESCRIPTION

What agent_cluster() of Opdata::Test returns: a PostgreSQL::Test::Cluster that
knows what opdata_status() tells, and waits for it.

=cut

package Opdata::Agent;

use strict;
use warnings;

use JSON::PP;
use Opdata::Test;
use Test::More;
use parent 'PostgreSQL::Test::Cluster';

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

=pod

=head1 METHODS

=over

=item Opdata::Agent->new(name, soon => seconds, dbname => name)

A cluster that is not made yet, as PostgreSQL::Test::Cluster has it. Its methods
wait for C<soon> (default PG_TEST_TIMEOUT_DEFAULT), and ask in database C<dbname>
(default "postgres").

=item $agent->ask_in(dbname)

Ask in this database from now on.

=cut

sub new
{
	my ($class, $name, %opts) = @_;
	my $self = $class->SUPER::new($name);

	$self->{soon} = $opts{soon} // $PostgreSQL::Test::Utils::timeout_default;
	$self->{told} = '';
	return $self->ask_in($opts{dbname} // 'postgres');
}

sub ask_in
{
	my ($self, $dbname) = @_;

	$self->{dbname} = $dbname;
	return $self;
}

=pod

=item $agent->status

What opdata_status() tells. This, and what is asked of it below, takes the options
of C<< $node->psql >>, and C<dbname> for another database.

=item $agent->told

All that C<status> has told so far, as text.

=item $agent->workers, $agent->states, $agent->pids

The workers; their states and pids (or "none"), with a space between.

=item $agent->warned, $agent->warned(code)

The codes of all warnings in order, with a space between; or whether this one is
among them.

=cut

sub status
{
	my ($self, %opts) = @_;
	return $self->ask('opdata_status()', %opts);
}

# The value of an expression that is JSON.
sub ask
{
	my ($self, $value, %opts) = @_;
	my $dbname = delete $opts{dbname} // $self->{dbname};
	my $text = $self->safe_psql($dbname, "select $value", %opts);

	$self->{told} .= "$text\n";
	return $json->decode($text);
}

sub told { return $_[0]->{told}; }

sub workers
{
	my ($self, @opts) = @_;
	return @{ $self->status(@opts)->{workers} };
}

sub states
{
	my ($self, @opts) = @_;
	return join(' ', map { $_->{state} } $self->workers(@opts));
}

sub pids
{
	my ($self) = @_;
	return join(' ', map { $_->{pid} // 'none' } $self->workers);
}

sub warned
{
	my ($self, $code) = @_;
	my @codes = sort map { $_->{code} } @{ $self->status->{warnings} };

	return defined $code ? scalar(grep { $_ eq $code } @codes) : join(' ', @codes);
}

=pod

=item $agent->all_are(state)

Are all workers in this state, and as many as the settings say?

=item $agent->workers_get(state, name, timeout => seconds)

A test: they get there. The cluster may be away meanwhile.

=cut

sub all_are
{
	my ($self, $state, %opts) = @_;
	my $status = $self->ask(
		q{opdata_status() || jsonb_build_object('number',
			current_setting('opdata.interactive_workers')::int + current_setting('opdata.bulk_workers')::int)},
		%opts);

	return $status->{number} == grep { $_->{state} eq $state } @{ $status->{workers} };
}

sub workers_get
{
	my ($self, $state, $name, %opts) = @_;
	my $timeout = delete $opts{timeout} // $self->{soon};

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_until(sub { eval { $self->all_are($state, %opts) } }, $timeout), $name)
	  or diag($json->encode(eval { $self->status(%opts) } // $@));
	return;
}

=pod

=item $agent->set(name => value, ...)

Other settings of opdata, named without "opdata.", and a reload.

=item $agent->renew(name => value, ...)

The same, and wait until they are at work: in new processes, but for workers that
had done nothing yet.

=cut

sub set
{
	my ($self, %settings) = @_;

	$self->append_conf('postgresql.conf', conf_lines(%settings));
	$self->reload;
	return;
}

sub renew
{
	my ($self, %settings) = @_;
	my %before = map { ($_->{pid} // 0) => 1 } grep { $_->{state} ne 'not_configured' } $self->workers;

	$self->set(%settings);
	wait_until(sub { !grep { $before{ $_->{pid} // 0 } || $_->{state} =~ /^(?:not_configured|st)/ } $self->workers }, $self->{soon})
	  or die 'the workers go on with other settings';
	return;
}

=pod

=item $agent->note_effects

Write down what is done to the table of connections from now on.

=item $agent->effects(id)

That of one connection: "INSERT UPDATE", for example.

=back

=cut

sub note_effects
{
	my ($self) = @_;

	$self->safe_psql(
		$self->{dbname}, q{
		create table public.effect (n bigint generated always as identity, id text, operation text);
		create function public.note_effect() returns trigger language plpgsql as $$
		begin
			insert into public.effect (id, operation) values (coalesce(new.id, old.id), tg_op);
			return null;
		end $$;
		create trigger note_effect after insert or update or delete on opdata.connection
			for each row execute function public.note_effect();
	});
	return;
}

sub effects
{
	my ($self, $id) = @_;
	return $self->safe_psql($self->{dbname},
		"select string_agg(operation, ' ' order by n) from public.effect where id = '$id'");
}

1;
