
=pod

=head1 NAME

Opdata::Workflows - an agent at work for a Temporal server, for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Workflows;

  my $tenant = tenant('acme');

  my $ended = $tenant->run('previewQueryWorkflow',
	{ connectionId => 'shop', sql => 'select 1' });
  is(code_of($ended), 'ok', 'a preview comes back');
  is($tenant->job_of($ended)->{state}, 'succeeded', 'and is recorded');

=head1 DESCRIPTION

Opdata::Test has the clusters, and Opdata::Temporal the server and its client.
This joins them: one agent that serves an organisation on a server of its own.

=cut

package Opdata::Workflows;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;
use Opdata::Temporal;
use Opdata::Test;

our @EXPORT = qw(tenant code_of failure_of canonical);

my $json = JSON::PP->new->canonical->ascii->allow_nonref;

=pod

=over

=item tenant(organisation, conf => text, start => bool)

A Temporal server, and an agent of this organisation on it; their names begin
with the organisation's. C<conf> is for the agent's postgresql.conf.

=item $tenant->temporal, $tenant->client, $tenant->agent, $tenant->queue

The server, its client, the agent's cluster, and the name of its task queue.

=cut

sub tenant
{
	my ($organisation, %opts) = @_;
	my $temporal = temporal_server("${organisation}_temporal");
	my $agent = agent_cluster("${organisation}_agent",
			conf => "opdata.org_id = '$organisation'\n"
		  . "opdata.temporal_address = '"
		  . $temporal->address . "'\n"
		  . "opdata.temporal_tls = off\n"
		  . ($opts{conf} // ''));

	return bless {
		organisation => $organisation,
		temporal => $temporal,
		agent => $agent,
		number => 0
	  },
	  __PACKAGE__;
}

sub temporal { return $_[0]->{temporal}; }
sub client   { return $_[0]->{temporal}->client; }
sub agent    { return $_[0]->{agent}; }
sub queue    { return "tenant-$_[0]->{organisation}"; }

=pod

=item $tenant->arguments(type, input, name => value, ...)

Arguments of the client's start() and execute(): an id of its own, the task
queue, and C<orgId> in the input unless that has one. An input that is no hash
is taken as it is; undef stands for none. The names and values replace these.

=item $tenant->start(type, input, ...), $tenant->run(type, input, ...)

start() and execute() of the client with these.

=cut

sub arguments
{
	my ($self, $type, $input, %more) = @_;

	$self->{number}++;
	$input = { orgId => $self->{organisation}, %$input }
	  if ref $input eq 'HASH';
	return (
		type => $type,
		workflow_id => "$type $self->{number}",
		task_queue => $self->queue,
		defined $input ? (input => $input) : (),
		%more
	);
}

sub start
{
	my ($self, @args) = @_;
	return $self->client->start($self->arguments(@args));
}

sub run
{
	my ($self, @args) = @_;
	return $self->client->execute($self->arguments(@args));
}

=pod

=item $tenant->jobs_of(workflow), $tenant->job_of(workflow)

The rows of opdata_jobs of a workflow as hashes, in the order of their start:
C<workflow> is what start() or run() returned. job_of() dies unless there is
exactly one.

=cut

sub jobs_of
{
	my ($self, $workflow) = @_;
	my $id = $workflow->{workflow_id};

	$id =~ s/'/''/g;
	return @{
		json($self->agent,
				"select coalesce(json_agg(j order by started_at), '[]')"
			  . " from opdata_jobs j where workflow_id = '$id'")
	};
}

sub job_of
{
	my ($self, $workflow) = @_;
	my @jobs = $self->jobs_of($workflow);

	die "$workflow->{workflow_id} has " . @jobs . " jobs\n" if @jobs != 1;
	return $jobs[0];
}

=pod

=item $tenant->workers

What opdata_status() tells of the workers.

=back

=cut

sub workers
{
	my ($self) = @_;
	return @{ json($self->agent, 'select opdata_status()')->{workers} };
}

=pod

=head1 OUTCOMES

=over

=item code_of(outcome)

"ok" of a workflow that returned something, the type of the failure of one that
failed: opdata's error code. Of any other error it is the class and message.

=item failure_of(outcome)

The same for a failure, with what a retry would do: "query_failed, final" or
"timeout, retryable".

=cut

sub code_of
{
	my ($outcome) = @_;
	my $error = $outcome->{error} // return 'ok';

	return $error->{type}
	  if $error->{class} eq 'ApplicationError' && defined $error->{type};
	return "$error->{class}: $error->{message}";
}

sub failure_of
{
	my ($outcome) = @_;
	my $error = $outcome->{error} // return 'ok';

	return code_of($outcome) . ', '
	  . ($error->{non_retryable} ? 'final' : 'retryable');
}

=pod

=item canonical(value, key, ...)

JSON text of a value, for comparisons that tell 1 from "1". The keys, which
differ from call to call, are left out.

=back

=cut

sub canonical
{
	my ($value, @keys) = @_;

	if (ref $value eq 'HASH')
	{
		$value = {%$value};
		delete @$value{@keys};
	}
	return $json->encode($value);
}

1;
