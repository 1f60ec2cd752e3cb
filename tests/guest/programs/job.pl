# SPDX-License-Identifier: MIT
# What perl keeps memory for: lists, hashes of hashes, sorting, long strings, matches.
use strict;
use warnings;
use Digest::SHA;

my (%length, @lines);
my $x = 1;
for my $i (1 .. 80_000) {
    $x = ($x * 1103515245 + 12345) % 2147483648;
    my $line = sprintf "%08x-%s", $x, chr(97 + $x % 26) x (1 + $x % 9);
    push @lines, $line;
    $length{ substr $line, 0, 5 }{ $i % 7 } += length $line;
}
my $digest = Digest::SHA->new(256);
$digest->add("$_\n") for sort { $a cmp $b } @lines;
my $text = join "\n", @lines;
my $matches = () = $text =~ /([a-f])\1[0-9]+-([g-m])\2+/g;
$text =~ s/(\d+)([a-f])/$2$1/g;
$digest->add($text);
for my $key (sort keys %length) {
    $digest->add("$key $_ $length{$key}{$_};") for sort keys %{ $length{$key} };
}
print "$matches ", $digest->hexdigest, "\n";
