
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

One agent that serves an organisation on a Temporal server of its own, without
tokens and Convex; what there is of a control plane is an Opdata::ControlPlane.

=cut

package Opdata::Workflows;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;
use Opdata::Temporal;
use Opdata::Test;
use parent 'Opdata::ControlPlane';

our @EXPORT = qw(tenant code_of failure_of canonical);

my $json = JSON::PP->new->canonical->ascii->allow_nonref;

=pod

=over

=item tenant(organisation, conf => text, task_timeout => seconds)

A Temporal server, and an agent of this organisation on it; their names begin
with the organisation's. C<conf> is for the agent's postgresql.conf. The timeout is
that of workflows without one of their own: with more than the server's ten seconds
a machine with other things to do does not lose tasks, which are then done again.

=item $tenant->agent

The agent's cluster. C<temporal>, C<client>, C<queue>, C<arguments>, C<start> and
C<run> are those of Opdata::ControlPlane.

=cut

sub tenant
{
	my ($organisation, %opts) = @_;
	my ($conf, $task_timeout) = delete @opts{qw(conf task_timeout)};
	my $self = __PACKAGE__->new(
		$organisation,
		temporal => temporal_server("${organisation}_temporal", %opts),
		task_timeout => $task_timeout);

	$self->{agent} = agent_cluster("${organisation}_agent", conf => $self->conf . ($conf // ''));
	return $self;
}

sub agent { return $_[0]->{agent}; }

sub arguments
{
	my ($self, @args) = @_;
	my $timeout = $self->{task_timeout};

	return (defined $timeout ? (task_timeout => $timeout) : (), $self->SUPER::arguments(@args));
}

=pod

=item $tenant->jobs_of(workflow), $tenant->job_of(workflow)

The rows of opdata_jobs of a workflow as hashes, in the order of their start:
C<workflow> is what start() or run() returned. job_of() dies unless there is
exactly one.

=back

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
