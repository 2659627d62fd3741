// Package conformance makes a program of the Gateway API's conformance suite, as it is.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestConformance runs the suite by its own flags.
func TestConformance(t *testing.T) { conformance.RunConformance(t) }
