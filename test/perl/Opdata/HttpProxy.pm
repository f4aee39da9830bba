
=pod

=head1 NAME

Opdata::HttpProxy - an HTTP CONNECT proxy for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::HttpProxy;

  my $proxy = http_proxy('proxy', user => 'agent', password => 'secret',
	ports => [ 443, $temporal->port ]);

  is_deeply([ $proxy->asked ], ['temporal.example:7233'], 'it was asked for one name');

=head1 DESCRIPTION

Debian's tinyproxy (package tinyproxy-bin). Its log tells who was asked for.

=cut

package Opdata::HttpProxy;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(http_proxy);

=pod

=head1 METHODS

=over

=item http_proxy(name, option => value, ...)

A running proxy on 127.0.0.1 that takes CONNECT, and plain requests too. Its log
is "name.log" in the folder of the logs.

  user, password  who may use it (BasicAuth), default everybody. Without
                  credentials tinyproxy answers 407, with wrong ones 401
  ports           list of the ports that CONNECT may reach, default all; others
                  get 403

What it cannot reach, or resolve, gets 500. C<stop>, which cuts its tunnels,
C<kill>, C<freeze>, C<thaw> and C<start>, at the same port, are those of
Opdata::Program.

=cut

sub http_proxy { return Opdata::HttpProxy::Server->launch(@_); }

package Opdata::HttpProxy::Server;

use MIME::Base64 ();
use PostgreSQL::Test::Utils;
use parent 'Opdata::Program';

sub port_names { return ('port'); }

sub command
{
	my ($self) = @_;

	$self->{conf} //= PostgreSQL::Test::Utils::tempdir($self->{name}) . '/tinyproxy.conf';
	open my $file, '>', $self->{conf} or die "$self->{conf}: $!";
	print $file <<"CONF";
Port $self->{port}
Listen 127.0.0.1
Allow 127.0.0.1
Timeout 600
MaxClients 100
LogFile "$self->{log}"
LogLevel Info
CONF
	print $file "BasicAuth $self->{user} $self->{password}\n" if defined $self->{user};
	print $file map { "ConnectPort $_\n" } @{ $self->{ports} // [] };
	close $file or die "$self->{conf}: $!";
	return ('tinyproxy', '-d', '-c', $self->{conf});
}

sub is_ready
{
	my ($self, $said) = @_;
	return $self->log_since($said) =~ /Accepting connections/;
}

=pod

=item $proxy->url

"http://127.0.0.1:port", and with credentials "http://user:password@127.0.0.1:port".

=item $proxy->authorization

The header Proxy-Authorization that it asks for.

=item $proxy->asked, $proxy->established

What CONNECT has asked for so far, in order, as "host:port" in the client's own
words, and the hosts that it was connected to. In scalar context, how many.

=back

=cut

sub url
{
	my ($self) = @_;
	my $who = defined $self->{user} ? "$self->{user}:$self->{password}@" : '';
	return "http://$who" . $self->address;
}

sub authorization
{
	my ($self) = @_;
	return 'Basic ' . MIME::Base64::encode_base64("$self->{user}:$self->{password}", '');
}

sub asked
{
	my ($self) = @_;
	my @found = slurp_file($self->{log}) =~ /: CONNECT (\S+) HTTP/g;
	return @found;
}

sub established
{
	my ($self) = @_;
	my @found = slurp_file($self->{log}) =~ /Established connection to host "([^"]+)"/g;
	return @found;
}

1;
