
=pod

=head1 NAME

Opdata::Jose - seal and open compact JWE with others' tools, for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Jose;

  foreach my $tool (jose_tools())
  {
	my $token = $tool->seal($public_jwk, $text, kid => $kid);
	...
	is($tool->open($private_jwk, $sealed), $text, $tool->name . ' opens it');
  }

=head1 DESCRIPTION

The three that a customer is likely to have: the command C<jose> (on libjose), the
module C<jose> of Node, and Python's C<jwcrypto>. The latter two are a process each,
which answers one request after the other and ends with the test.

=cut

package Opdata::Jose;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use IPC::Run;
use JSON::PP;
use MIME::Base64 qw(decode_base64url encode_base64url);
use PostgreSQL::Test::Utils;

our @EXPORT = qw(jose_tools forger header_of public_half);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

=pod

=over

=item jose_tools()

One of each. Texts are bytes: JSON as UTF-8.

=item forger()

jwcrypto's, which has besides

  $forger->ask('forge', ...)     a token such as no tool would make
  $forger->ask('mutate', ...)    many
  $forger->ask('vectors')        examples of the RFCs

test/python/sealer.py describes them.

=cut

sub jose_tools
{
	return (Opdata::Jose::Command->new, Opdata::Jose::Node->new('node_sealer')->converse, forger());
}

sub forger { return Opdata::Jose::Python->new('python_sealer')->converse; }

=pod

=item $tool->name

=item $tool->generate(crv)

A private JWK on that curve, as a hash.

=item $tool->seal(jwk, plaintext, name => value, ...)

A token. The names and values are members of its header.

=item $tool->open(jwk, token)

The plaintext. All of them die when the tool refuses.

=item header_of(token)

Its header as a hash.

=item public_half(jwk)

The same key without its private part.

=back

=cut

sub header_of
{
	my ($token) = @_;
	return $json->decode(decode_base64url((split /\./, $token)[0]));
}

sub public_half
{
	my ($jwk) = @_;
	return { map { $_ => $jwk->{$_} } qw(kty crv x y) };
}

# The command. It reads and writes files, of which it leaves none.
package Opdata::Jose::Command;

use PostgreSQL::Test::Utils;

sub new { return bless {}, $_[0]; }

sub name { return "the command jose"; }

sub call
{
	my ($self, $files, @command) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir('jose');
	my ($out, $err);

	foreach my $name (keys %$files)
	{
		open my $file, '>:raw', "$folder/$name" or die "$folder/$name: $!";
		print $file $files->{$name};
		close $file or die "$folder/$name: $!";
	}
	IPC::Run::run([ 'jose', map { s{^\@}{$folder/}r } @command ], '<', \undef, '>', \$out, '2>', \$err)
	  or die "jose @command: $err";
	return $out;
}

sub generate
{
	my ($self, $crv) = @_;
	return $json->decode($self->call({}, 'jwk', 'gen', '-i', $json->encode({ kty => 'EC', crv => $crv })));
}

sub seal
{
	my ($self, $jwk, $plaintext, %header) = @_;
	my %files = (
		key => $json->encode($jwk),
		template => $json->encode({ protected => { alg => 'ECDH-ES+A256KW', enc => 'A256GCM', %header } }),
		plaintext => $plaintext
	);

	return $self->call(\%files, qw(jwe enc -c -i @template -I @plaintext -k @key));
}

sub open
{
	my ($self, $jwk, $token) = @_;
	return $self->call({ key => $json->encode($jwk), token => $token }, qw(jwe dec -i @token -k @key));
}

# A process that answers lines by lines.
package Opdata::Jose::Process;

use parent 'Opdata::Process';

sub ask
{
	my ($self, $op, %request) = @_;
	my $answer = $json->decode($self->exchange($json->encode({ op => $op, %request }), $op));

	die $self->name . ": $answer->{error}\n" if exists $answer->{error};
	return $answer->{value};
}

sub generate
{
	my ($self, $crv) = @_;
	return $self->ask('generate', crv => $crv);
}

sub seal
{
	my ($self, $jwk, $plaintext, %header) = @_;
	return $self->ask('seal', jwk => $jwk, plaintext => as_text($plaintext), header => \%header);
}

sub open
{
	my ($self, $jwk, $token) = @_;
	my $text = $self->ask('open', jwk => $jwk, token => $token);

	utf8::encode($text);
	return $text;
}

sub as_text
{
	my ($bytes) = @_;

	utf8::decode($bytes);
	return $bytes;
}

package Opdata::Jose::Node;

our @ISA = ('Opdata::Jose::Process');

sub name { return "Node's jose"; }

# Without jose, by what a browser has.
sub seal_in_browser
{
	my ($self, $jwk, $plaintext) = @_;
	return $self->ask('sealInBrowser', jwk => $jwk, plaintext => Opdata::Jose::Process::as_text($plaintext));
}

sub command
{
	return (Opdata::Process::program('OPD_NODE'), "$FindBin::RealBin/../node/sealer.mjs");
}

package Opdata::Jose::Python;

our @ISA = ('Opdata::Jose::Process');

sub name { return "Python's jwcrypto"; }

sub command
{
	return (Opdata::Process::program('OPD_PYTHON'), '-B', "$FindBin::RealBin/../python/sealer.py");
}

1;
